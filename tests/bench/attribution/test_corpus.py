from bench.attribution.corpus import PIECE_TOKENS, Page, Pages, Size, draw, made_up_pages
from openledger.lm.tokenizer import Tokenizer

SIZE = Size(contributors=3, training=4, held_out=2, outside=3)


def test_a_datanet_holds_no_piece_twice(tokenizer: Tokenizer) -> None:
    datanet = draw(made_up_pages(), tokenizer, 0, SIZE)
    pieces = [p for part in (datanet.training, datanet.held_out) for one in part for p in one]

    assert len(datanet.names) == len(set(datanet.names)) == 3
    assert [len(one) for one in datanet.training] == [4, 4, 4]
    assert [len(one) for one in datanet.held_out] == [2, 2, 2]
    assert len(datanet.outside) == 3
    everything = [*pieces, *datanet.outside]
    assert len(set(everything)) == len(everything)
    assert {len(piece) for piece in everything} == {PIECE_TOKENS}


def test_a_seed_draws_the_same_and_another_something_else(tokenizer: Tokenizer) -> None:
    pages = made_up_pages()

    assert draw(pages, tokenizer, 1, SIZE) == draw(pages, tokenizer, 1, SIZE)
    assert draw(pages, tokenizer, 1, SIZE) != draw(pages, tokenizer, 2, SIZE)


def test_pages_too_short_are_passed_over(tokenizer: Tokenizer) -> None:
    made_up = made_up_pages()
    short = Page("short", "a few words")
    pages = Pages(made_up.reading, (short, *made_up.pool), made_up.outside)

    for seed in range(3):
        assert "short" not in draw(pages, tokenizer, seed, SIZE).names
