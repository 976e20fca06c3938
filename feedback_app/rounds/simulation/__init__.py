"""Annotators that are simulated: so that a team can rehearse the whole loop before hiring anybody."""
