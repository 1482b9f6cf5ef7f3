"""Where a fit starts: closed form, or a network trained on projections of random faces."""
