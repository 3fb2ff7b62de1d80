"""The effect of each training row on an answer, as inner products of small integer vectors."""
