"""Which training documents made an answer: influence measured at the adapter, credited in integers.

`release.build` makes the state of a release once; `attribute.attribute` scores one answer with it.
Source of the method: EK-FAC influence (arXiv 2308.03296) restricted to the LoRA matrices.
"""
