uniform sampler2DShadow shadow_map;
uniform float shadow_blur;  // radius in the map

// Share of the key light that arrives: 0 in full shadow; places beside the map are lit.
float key_share(vec3 place) {
    if (any(lessThan(place, vec3(0.01))) || any(greaterThan(place.xy, vec2(0.99)))) return 1.0;
    place.z = min(place.z, 0.999);  // what lies behind the map's depth is shadowed by all that is in it
    float r = shadow_blur;
    // Each look compares and mixes four neighbours already.
    return (texture(shadow_map, place + vec3(0.0, 0.9 * r, 0.0)) + texture(shadow_map, place + vec3(-0.78 * r, -0.45 * r, 0.0))
          + texture(shadow_map, place + vec3(0.78 * r, -0.45 * r, 0.0))) / 3.0;
}
