"""From per-view hands to one metric hand: association, triangulation, model fit, tracking."""
