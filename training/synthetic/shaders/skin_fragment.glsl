// What is seen of a hand, to be shaded later.
uniform vec2 labels;  // of hand and forearm
in vec4 normal;
in vec4 chart;
layout(location = 0) out vec4 facing;  // with z of the camera
layout(location = 1) out vec4 site;  // with label + openness
void main() {
    facing = vec4(normal.xyz, 1.0 / gl_FragCoord.w);  // w of the clip space is z of the camera
    site = vec4(chart.xyz, (normal.w > 0.5 ? labels.y : labels.x) + min(chart.w, 0.99));
}
