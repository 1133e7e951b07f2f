uniform vec3 eye;
uniform vec3 above;
uniform vec3 below;
in vec4 far_point;
out vec4 colour;
void main() {
    vec3 direction = normalize(far_point.xyz / far_point.w - eye);
    colour = vec4(mix(below, above, smoothstep(-0.7, 0.7, direction.z)), 0.0);
}
