"""What is Redis's own: its address, what is said of how it keeps things, and its identity."""

import asyncio
import sys
from contextlib import AsyncExitStack

import pytest

from app.errors import ConfigError, StoreUnavailable
from app.services.memory.conversation import WHOLE, Conversation, MemorySettings
from app.services.memory.redis import RedisStore
from app.services.memory.redis_server import RedisServer
from tests.databases.server import PASSWORD, Server

OF = Conversation("a", "", "s")
SAID = b'[{"role":"user","content":"x"}]'


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache", "cache:6379/0"),
        ("rediss://u:p%40@cache:1/3", "cache:1/3"),
        ("redis://:p@[::1]:6380", "::1:6380/0"),
        ("unix:///run/redis.sock?db=2", "/run/redis.sock"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert str(RedisServer(url)) == shown


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://u:hush@cache", "has to begin with redis://"),
        ("cache:6379", "has to begin with redis://"),
        ("redis://u:hu@sh@cache", "is not escaped"),
        ("redis://u:hu#sh@cache", "is not a URL"),
        ("redis://u:hu/sh@cache", "is not a URL"),
        ("redis://u:12?hush@cache", "is not escaped"),
        ("redis://u:hush@cache:0x1/0", "is not a URL"),
        ("redis:///1", "names no host"),
        ("redis://u:hush@cache/name", "which is no number"),
    ],
)
def test_a_url_that_is_none_is_told_with_its_form_and_is_not_quoted(url: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisStore(url, MemorySettings())
    assert told in caught.value.message
    assert "ASTROMESH_REDIS_URL" in caught.value.message
    assert "redis://user:password@host:6379/0" in caught.value.message
    assert not any(piece in caught.value.message for piece in ("hush", "hu@", "hu#", "hu/", "sh@"))


async def test_a_missing_driver_is_told_with_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigError, match=r"driver for Redis is missing.*requirements-all\.lock"):
        async with RedisStore("redis://127.0.0.1:1", MemorySettings()).open():
            pass


@pytest.mark.databases
@pytest.mark.parametrize(
    ("scheme", "setting"), [("redis", "no_such_thing=1"), ("redis", "socket_timeout=x"), ("rediss", "ssl_cert_reqs=x")]
)
async def test_a_setting_of_the_url_that_the_driver_does_not_know_is_a_configuration_error(
    redis_url: str, scheme: str, setting: str
) -> None:
    with pytest.raises(ConfigError, match="correct what stands after the"):
        async with RedisStore(f"{redis_url.replace('redis', scheme, 1)}?{setting}", MemorySettings()).open():
            pass


@pytest.mark.databases
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("p%40ss", "wrong"), "correct user and password in ASTROMESH_REDIS_URL"),
        (("/0", "/99999"), "name another database number"),
    ],
)
async def test_what_is_wrong_with_a_server_is_told_with_the_remedy(redis: Server, change: tuple[str, str], told: str) -> None:
    store = RedisStore(redis.url(0).replace(*change), MemorySettings())
    async with store.open():
        with pytest.raises(StoreUnavailable, match=told) as caught:
            await store.history(OF, WHOLE)
    assert caught.value.headers["Retry-After"]
    assert "w%2Ford" not in caught.value.message


@pytest.mark.databases
async def test_a_server_that_comes_back_empty_is_given_the_id_that_it_had(redis_url: str) -> None:
    from redis.asyncio import Redis

    store, changed = RedisStore(redis_url, MemorySettings()), asyncio.Event()
    async with store.open():
        before = store.store_id
        assert await store.append(OF, "t1", SAID, None)
        async with Redis.from_url(redis_url) as client:
            await client.flushdb()
        assert (await store.history(OF, WHOLE)).turns == ()
        await store._identify()
        assert store.store_id == before
        other = RedisStore(redis_url, MemorySettings())
        async with other.open():
            assert other.store_id == before
        async with Redis.from_url(redis_url) as client:
            await client.set("astromesh:store_id", "0123456789ab")
        following = asyncio.create_task(store.follow(changed.set))
        async with asyncio.timeout(10):
            await changed.wait()
        following.cancel()
    assert store.store_id == "0123456789ab"


@pytest.mark.databases
async def test_what_a_newer_build_has_written_is_refused(redis_url: str) -> None:
    from redis.asyncio import Redis

    async with Redis.from_url(redis_url) as client:
        await client.set("astromesh:version", 2)
    with pytest.raises(ConfigError, match="holds conversations of version 2, and this build knows 1; run the newer build"):
        async with RedisStore(redis_url, MemorySettings()).open():
            pass


@pytest.mark.databases
async def test_a_server_that_does_not_keep_what_it_is_told_is_named(troubled_redis: Server, caplog: pytest.LogCaptureFixture) -> None:
    from redis.asyncio import Redis

    store = RedisStore(troubled_redis.url(), MemorySettings())
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(store.open())
        assert store.place == f"Redis at 127.0.0.1:{troubled_redis.port}/0"
        async with Redis.from_url(troubled_redis.url()) as client:
            await client.config_set("appendonly", "no")
            await client.config_set("maxmemory-policy", "allkeys-lru")
            for _ in range(3):
                await store._identify()
            assert [each.message for each in caplog.records] == [store.place], "the log names it once"
            assert "its append-only file is off" in store.place
            assert "with maxmemory-policy allkeys-lru it may drop conversations" in store.place
            await client.config_set("maxmemory-policy", "noeviction")
            await client.config_set("maxmemory", "1mb")
        with pytest.raises(StoreUnavailable, match="give it more memory"):
            await asyncio.gather(*(store.append(OF, f"t{number}", b'["' + b"x" * 100_000 + b'"]', None) for number in range(100)))
        assert len((await store.history(OF, WHOLE)).turns) < 100, "what was kept can be read"


@pytest.mark.databases
async def test_what_was_acknowledged_outlives_a_server_that_is_killed(troubled_redis: Server) -> None:
    store = RedisStore(troubled_redis.url(), MemorySettings())
    async with store.open():
        for number in range(20):
            await store.append(OF, f"t{number}", SAID, None)
        await asyncio.to_thread(troubled_redis.kill)
        with pytest.raises(StoreUnavailable, match="nodes connect again by themselves"):
            await store.append(OF, "t20", SAID, None)
        await asyncio.to_thread(troubled_redis.start)
        assert [turn.turn_id for turn in (await store.history(OF, WHOLE)).turns] == [f"t{number}" for number in range(20)]
        assert await store.append(OF, "t20", SAID, None)


@pytest.mark.databases
async def test_a_cluster_is_told_with_the_remedy(troubled_redis: Server) -> None:
    await asyncio.to_thread(troubled_redis.kill)
    await asyncio.to_thread(troubled_redis.run, "redis-server", "/etc/redis/redis.conf", "--cluster-enabled", "yes")
    await asyncio.to_thread(troubled_redis._until_redis_answers)
    store = RedisStore(troubled_redis.url(), MemorySettings())
    async with store.open():
        with pytest.raises(StoreUnavailable, match="it is a cluster: name a single server"):
            await store.append(OF, "t1", SAID, None)
        auth = ("env", f"REDISCLI_AUTH={PASSWORD}", "redis-cli")
        await asyncio.to_thread(troubled_redis.run, *auth, "cluster", "addslotsrange", "0", "16383")
        async with asyncio.timeout(20):
            while "state:ok" not in await asyncio.to_thread(troubled_redis.run, *auth, "cluster", "info"):
                pass
        with pytest.raises(StoreUnavailable, match="it is a cluster: name a single server"):
            await store._identify()
