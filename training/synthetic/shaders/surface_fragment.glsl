uniform vec3 key;
uniform sampler2DArray stock;
in vec3 texture_place;
in vec3 shadow_place;
in vec3 soft_light;
in vec3 key_light;
in float shine;
flat in vec3 low;
flat in vec4 high;
out vec4 colour;  // with the label
void main() {
    vec3 albedo = mix(low, high.rgb, texture(stock, texture_place).rgb);
    float share = key_share(shadow_place);
    colour = vec4(min(albedo * (soft_light + share * key_light) + 0.5 * share * shine * key, 1.0), high.a);
}
