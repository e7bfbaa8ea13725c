-- The check of a statement's changes of state joins its old and new rows. A billing run has its transaction plan by index alone, and rows of a
-- statement have none: without a hash the join takes the square of their number.
ALTER FUNCTION refuse_state_edges() SET enable_hashjoin = on;
