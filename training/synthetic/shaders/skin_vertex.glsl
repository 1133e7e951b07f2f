// Few values go on to the pixels: with small triangles, every one of them counts.
uniform mat4 clip_from_world;
uniform vec3 fill_direction;
uniform vec3 fill;
uniform vec3 sky;
uniform vec3 ground;
in vec3 in_position;
in vec3 in_normal;
in float in_openness;
in vec4 in_chart;  // place on the flat hand (m), how far it faces the back, 1 on the forearm
out vec4 place;  // with the openness
out vec4 normal;  // with 1 on the forearm
out vec3 chart;
out vec3 soft_light;
void main() {
    place = vec4(in_position, in_openness);
    normal = vec4(in_normal, in_chart.w);
    chart = in_chart.xyz;
    soft_light = mix(ground, sky, 0.5 + 0.5 * in_normal.z)
               + fill * (0.75 * max(dot(in_normal, fill_direction), 0.0) + 0.08);
    gl_Position = clip_from_world * vec4(in_position, 1.0);
}
