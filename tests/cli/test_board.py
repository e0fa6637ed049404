"""What `watch` knows and shows."""

from datetime import timedelta

from supervisor.cli.board import Board
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import Phase
from tests.cli.views import NOW, conversation, drawn, event


def picture(board: Board, width: int = 120, height: int = 24) -> list[str]:
    """The lines of the board."""
    return drawn(board.picture(NOW), width, height).splitlines()


def test_board_shows_first_what_needs_a_look() -> None:
    """Then what runs, each oldest first."""
    board = Board("unix:/x")
    board.begin([conversation("young"), conversation("old", created_at=NOW - timedelta(days=1))])
    board.put(conversation("bad", status=Status.ERROR))
    assert [each.id for each in board.shown()] == ["bad", "old", "young"]
    assert picture(board)[0].endswith("1 error, 2 running  unix:/x")


def test_board_shows_the_chosen_statuses_only() -> None:
    """But counts all."""
    board = Board("unix:/x", (Status.PAUSED,))
    board.begin([conversation("a"), conversation("b", status=Status.PAUSED)])
    assert [each.id for each in board.shown()] == ["b"]


def test_board_forgets_what_is_gone() -> None:
    """Gone twice is fine."""
    board = Board("unix:/x")
    board.begin([conversation("a")])
    board.drop("a")
    board.drop("a")
    assert board.shown() == []
    assert "no conversations" in picture(board)[0]


def test_board_tells_how_far_a_pull_is() -> None:
    """As long as the pull goes on."""
    board = Board("unix:/x")
    board.begin([conversation("a", status=Status.STARTING, phase=Phase.IMAGE)])
    board.note("a", event("phase", phase="image"))
    board.note("a", event("progress", current=1, total=0))
    assert "STARTING image  " in picture(board)[3]
    board.note("a", event("progress", current=43, total=100))
    assert "STARTING image 43%" in picture(board)[3]


def test_board_says_that_it_is_old() -> None:
    """Until there is a connection again."""
    board = Board("unix:/x")
    board.lost = "the daemon went away"
    assert picture(board)[1] == "the daemon went away; connecting again, this is how it was"
    board.begin([])
    assert "went away" not in "".join(picture(board))


def test_board_is_cut_to_the_terminal() -> None:
    """And says how much is left out."""
    board = Board("unix:/x")
    board.begin([conversation(f"c{number:02}") for number in range(30)])
    lines = picture(board, height=12)
    assert len(lines) <= 12
    assert lines[-1] == "... and 24 more"
    assert len(board.table(NOW)._conversations) == 30
