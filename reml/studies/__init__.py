"""What uses fits: effects and predictions, association, sparse REML, enrichment, merging, relaxation, liability."""
