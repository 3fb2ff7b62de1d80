"""The optimiser steps of a run: one step, its loss at the head, and where the run stands."""
