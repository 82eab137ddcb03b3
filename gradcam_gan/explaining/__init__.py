"""Where a network looks: class activation maps, the statistics that decide them, and measures of them."""
