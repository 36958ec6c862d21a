import pytest

from app.errors import ConfigError
from app.postgres import parse


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@db:5432/astromesh", "db:5432/astromesh"),
        ("postgres://db/astromesh", "db/astromesh"),
        ("postgresql://u:p%40ss%2F@[::1]:5433/a?sslmode=require", "[::1]:5433/a"),
        ("postgresql://u@one:5432,two:5433/a?target_session_attrs=read-write", "one:5432,two:5433/a"),
        ("postgresql://u@/a?host=/run/postgresql", "/run/postgresql/a"),
        (" postgresql://u:p@db/a\n", "db/a"),
        ("postgresql://u:p@db", "db/its user's database"),
    ],
)
def test_a_url_is_shown_without_user_and_password(url: str, shown: str) -> None:
    assert str(parse(url)) == shown
    assert "p%40ss" not in repr(parse(url))


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("db:5432/astromesh", "it has no scheme"),
        ("mysql://u:hidden@db/a", "it begins with mysql://"),
        ("postgresql+asyncpg://u:hidden@db/a", "it begins with postgresql+asyncpg://"),
        ("postgresql://", "names neither host nor database"),
        ("postgresql://u:hidden@db:port/a", "has a port that is no number"),
        ("postgresql://u:hidden@db:70000/a", "has a port that is no number"),
        ("postgresql://u:hidden@:5432/a", "has a port without a host"),
        ("postgresql://u:hid@den@db/a", "a character of user or password is not escaped"),
        ("postgresql://u:hid/den@db/a", "a character of user or password is not escaped"),
        ("postgresql://u:hid?den@db/a", "a character of user or password is not escaped"),
        ("postgresql://u:hid#den@db/a", "a character of user or password is not escaped"),
        ("postgresql://u:hid den@db/a", "there is a space"),
        ("postgresql://u:[hidden]@db/a", "is not a URL"),
        ("postgresql://u:hidden@db/a?sslmode", "has settings after the ? that are not name=value"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_a_remedy_and_without_the_password(url: str, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(url)
    assert wrong in caught.value.message
    assert "ASTROMESH_DATABASE_URL" in caught.value.message
    assert caught.value.problems[0].remedy
    assert "hid" not in caught.value.message.replace("hidden@host", "")
