"""Twenty prompts in the folk music Datanet's domain and twenty outside it, for `bench/demo.py`.

They are completions, answered by the folk-music adapter with up to 64 tokens each. No constant of
the attribution method was chosen on them. The last six outside the domain are near it on purpose:
other notations of music, and prose about it.
"""

IN_DOMAIN = (
    "X:1\nT:The Weaver's Gate\nM:4/4\nL:1/8\nK:G\n",
    "X:1\nT:Morning on the Moor\nM:6/8\nL:1/8\nK:D\n",
    "X:1\nT:The Ferryman's Fancy\nM:9/8\nL:1/8\nK:G\n",
    "X:1\nT:Kitty's Rambles\nM:6/8\nL:1/8\nK:Ador\n",
    "X:1\nT:The Crooked Bridge\nM:2/4\nL:1/16\nK:D\n",
    "X:1\nT:Lady Ann's Minuet\nM:3/4\nL:1/8\nK:F\n",
    "X:1\nT:The Blacksmith's Hornpipe\nM:C|\nL:1/8\nK:Bb\n",
    "X:1\nT:Farewell to the Glen\nM:C\nL:1/8\nK:Em\n",
    "X:1\nT:The Tinker's Wedding Day\nM:6/8\nL:1/8\nK:A\n",
    "X:1\nT:Old Hannah\nM:C|\nL:1/8\nK:D\nA2|:",
    "X:1\nT:The Drunken Shepherd\nM:6/8\nK:G\nG2B",
    "X:1\nT:Captain Ross's March\nM:2/4\nK:C\n",
    "X:1\nT:The Widow's Strathspey\nM:C\nL:1/8\nK:A\n",
    "X:1\nT:Sweet Nelly\nM:3/4\nK:G\n|:",
    "X:1\nT:The Lark at Dawn\nM:6/8\nL:1/8\nK:D\n|:A|d2e fed|",
    "X:1\nT:Rory's Delight\nM:4/4\nL:1/8\nK:Edor\n|:E2BE dEBE|",
    "X:1\nT:The Hare and the Hound\nM:12/8\nL:1/8\nK:G\n",
    "X:1\nT:Jenny's Clog\nM:C\nL:1/8\nK:F\n(3CDE|",
    "X:1\nT:The Bishop's Jig\nM:6/8\nK:Dmix\n",
    "X:1\nT:Round the Hay Cart\nM:C|\nL:1/8\nK:G\nGABc dedB|",
)

OUT_OF_DOMAIN = (
    "The capital of Portugal is Lisbon. The city lies on the river",
    "To bake a simple loaf of bread you need flour, water, salt and",
    "Photosynthesis is the process by which green plants",
    "Dear Mrs. Harper,\n\nThank you for your letter of last week. I am writing to",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "SELECT name, price FROM products WHERE",
    "The law of supply and demand says that when the price of a good rises,",
    "Question: How many legs does a spider have?\nAnswer:",
    "In the year 1969 the first people walked on the Moon. Their names were",
    "To change a flat tyre, first park the car on level ground and",
    "The patient should take one tablet twice a day with",
    "Water boils at a lower temperature on high mountains because",
    "Once upon a time there was a small dragon who was afraid of",
    "The three branches of government in the United States are",
    "La pomme est un fruit que l'on cueille en automne. Elle pousse sur",
    "# Installation\n\nFirst clone the repository, then run the following command:",
    "\\relative c' { \\key g \\major \\time 6/8",
    "Do Re Mi Fa Sol La Ti Do. In solfege every note of the scale has",
    "The violin has four strings, tuned in perfect fifths. A beginner should",
    '<score-partwise>\n  <part id="P1">\n    <measure number="1">\n      <note>',
)
