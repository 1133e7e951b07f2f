// Walls and furniture, which fill most of the picture: no shadows reach them.
uniform sampler2DArray stock;
in vec3 texture_place;
in vec3 soft_light;
in vec3 key_light;
flat in vec3 low;
flat in vec4 high;
out vec4 colour;
void main() {
    vec3 albedo = mix(low, high.rgb, texture(stock, texture_place).rgb);
    colour = vec4(min(albedo * (soft_light + key_light), 1.0), high.a);
}
