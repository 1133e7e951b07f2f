uniform vec3 eye;
uniform vec3 above;
uniform vec3 below;
in vec4 far_point;
layout(location = 0) out vec4 colour;
layout(location = 1) out float depth;
void main() {
    vec3 direction = normalize(far_point.xyz / far_point.w - eye);
    colour = vec4(mix(below, above, smoothstep(-0.7, 0.7, direction.z)), 0.0);
    depth = 0.0;  // nothing
}
