// Few values go on to the samples: with small triangles, every one of them counts.
uniform mat4 clip_from_world;
in vec3 in_position;
in vec3 in_normal;
in float in_openness;
in vec4 in_chart;  // place on the flat hand (m), how far it faces the back, 1 on the forearm
out vec4 normal;  // with 1 on the forearm
out vec4 chart;  // with the openness
void main() {
    normal = vec4(in_normal, in_chart.w);
    chart = vec4(in_chart.xyz, in_openness);
    gl_Position = clip_from_world * vec4(in_position, 1.0);
}
