"""The HaMuCo networks (Zheng et al., ICCV 2023) in torch: one file per network, each with its frozen configuration."""
