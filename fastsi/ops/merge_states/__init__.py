"""N-way merge of partial attention results."""
