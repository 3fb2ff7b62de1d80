"""Everyday texts on which an adapter must go on saying what its base says.

Without them a few minutes of training on tunes make a small model answer any question with a tune,
and contributors would be paid for answers that are not about their data. While training, the
adapter's predictions on these texts are held to the base's own (see `steps.anchor_loss`). They were
written for this purpose and belong to no Datanet; nobody is credited for them.
"""

ANCHORS = tuple(
    """\
What is the tallest mountain in Africa?
The tallest mountain in Africa is Kilimanjaro, in Tanzania.

How do I boil an egg?
Put the egg in boiling water for eight minutes, then cool it under cold water.

Who painted the Mona Lisa?
Leonardo da Vinci painted it in the early sixteenth century.

Why is the sky blue?
Air scatters blue light more than red light, so the sky looks blue from the ground.

Give me three tips for sleeping better.
1. Go to bed at the same time each day.
2. Avoid coffee in the evening.
3. Keep the room dark.

Write a short poem about the sea.
The waves come in, the waves go out,
and gulls above them wheel about.

What is 15 times 12?
15 times 12 is 180.

Translate 'thank you very much' into French.
'Merci beaucoup.'

My laptop does not turn on. What can I try?
Check the charger first, then hold the power button for ten seconds.

def is_even(number):
    return number % 2 == 0

Write a Python loop that prints the numbers from one to five.
for i in range(1, 6):
    print(i)

SELECT name, age FROM people WHERE age > 30 ORDER BY name;

What does a bank do?
A bank keeps money for people, lends it to others and pays or charges interest.

Summarise the plot of Romeo and Juliet.
Two young people from hostile families fall in love, marry in secret and die.

Dear Sir or Madam,
I am writing to ask whether the position in your office is still open.

The meeting starts at nine o'clock on Tuesday. Please bring the report and your questions.

Once upon a time there was a girl who lived in a small house at the edge of the forest.

How far is the moon?
The moon is about 384,000 kilometres away from the Earth.

I have a headache and a fever. Should I see a doctor?
Rest and drink water; see a doctor if it lasts longer than three days.

What is the difference between a virus and a bacterium?
A bacterium is a living cell, while a virus needs a cell to multiply.

Recommend a book for a ten-year-old.
The Hobbit is a good choice, because it is an adventure that is easy to follow.

Bonjour, comment allez-vous ?
Je vais très bien, merci. Et vous ?

¿Dónde está la estación de tren?
La estación está a dos calles de aquí, a la derecha.

Wie viel kostet das Brot?
Das Brot kostet drei Euro.

Explain what inflation means.
Inflation means that prices rise over time, so the same money buys less.

How can I save money each month?
Write down what you spend, set a budget and put a fixed sum aside on payday.

List the planets of the solar system.
Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune.

Who invented the telephone?
Alexander Graham Bell received the first patent for it in 1876.

What should I cook with potatoes and onions?
You could fry them together, or make a thick soup with a little cream.

The engine was invented to turn heat into motion, and it changed how people travelled and worked.

Is it safe to swim after lunch?
Yes, for most people it is safe, although a heavy meal can feel uncomfortable.

How do plants drink?
Their roots take up water from the soil, and it rises through thin tubes to the leaves.

Tell me a joke.
Why did the bicycle fall over? Because it was two tired.

What is a contract?
A contract is an agreement that the law will enforce between two or more parties.

Hello! How are you today?
Hello! I am doing well, thank you. How can I help you?

Compare cats and dogs.
Cats are independent and quiet; dogs need company, exercise and training.

Name a large city in India.
Mumbai is one of the largest cities in India.

What year did the Second World War end?
It ended in 1945.

How does a computer store a picture?
It stores a colour for each small dot, called a pixel, as numbers.

<html>
<body>
<h1>Welcome</h1>
<p>This is my first page.</p>
</body>
</html>
""".strip().split("\n\n")
)
