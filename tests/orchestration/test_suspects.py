import pytest

from consortium.orchestration.suspects import AnswersBeingRead, find_suspect


def test_the_hospital_whose_answer_is_being_read_is_named_until_it_is_read(tmp_path):
    answers = AnswersBeingRead(tmp_path)
    assert find_suspect(tmp_path) == ""
    with answers.reading("valley"):
        assert find_suspect(tmp_path) == "valley"
    assert find_suspect(tmp_path) == ""
    with pytest.raises(KeyError), answers.reading("valley"):
        raise KeyError
    assert find_suspect(tmp_path) == ""


def test_of_two_whose_answers_are_read_only_the_one_that_is_decoded_is_named(tmp_path):
    answers = AnswersBeingRead(tmp_path)
    with answers.reading("north"), answers.reading("valley"):
        assert find_suspect(tmp_path) == ""
    with answers.reading("north"), answers.reading("valley"), answers.decoding("valley"):
        assert find_suspect(tmp_path) == "valley"
    with answers.reading("north"), answers.reading("north"):
        assert find_suspect(tmp_path) == "north"


def test_the_next_process_blames_nobody_for_the_last(tmp_path):
    (tmp_path / "reading.txt").write_text("valley")
    AnswersBeingRead(tmp_path)
    assert find_suspect(tmp_path) == ""


def test_a_folder_that_is_gone_or_a_file_that_is_no_text_names_nobody(tmp_path):
    with AnswersBeingRead(tmp_path / "gone").reading("valley"):
        assert find_suspect(tmp_path / "gone") == ""
    (tmp_path / "reading.txt").write_bytes(b"\xff\xfe")
    assert find_suspect(tmp_path) == ""
