from bench.attribution.setting import Setting


def test_contributors_stand_in_the_order_of_their_first_documents(setting: Setting) -> None:
    assert setting.contributors == ("c1", "c2", "c0")
    assert setting.owner.tolist() == [0, 1, 2, 0, 1, 2]


def test_the_last_checkpoint_is_the_adapter(setting: Setting) -> None:
    assert setting.adapter is setting.checkpoints[1].adapter


def test_a_query_is_read_with_its_prompt(setting: Setting) -> None:
    assert setting.queries[0].tokens == setting.documents[5].tokens[:46]
