"""What is done in Redis in one step. A conversation is one hash, so that it stands, expires and is evicted as a whole:

first, last            the sequences of its oldest and its newest turn; none is missing between them
i<turn id>             the sequence of a turn
t<sequence>            its messages
m<sequence>            its time in microseconds, a space, and its turn id
summary, summary_turn, summary_sequence
"""

# ruff: noqa: E501 - Lua
APPEND = """
-- the conversation, what was answered in it; turn id, messages, how many turns it keeps, milliseconds that it stays or ''
local there = redis.call('HGET', KEYS[1], 'i' .. ARGV[1])
if there then return redis.call('HGET', KEYS[1], 't' .. there) end
local time = redis.call('TIME')
local last = redis.call('HINCRBY', KEYS[1], 'last', 1)
redis.call('HSET', KEYS[1], 'i' .. ARGV[1], last, 't' .. last, ARGV[2], 'm' .. last, time[1] .. string.format('%06d', time[2]) .. ' ' .. ARGV[1])
local first = tonumber(redis.call('HGET', KEYS[1], 'first') or 1)
while last - first >= tonumber(ARGV[3]) do
    local turn = string.match(redis.call('HGET', KEYS[1], 'm' .. first), ' (.*)')
    redis.call('HDEL', KEYS[1], 'i' .. turn, 't' .. first, 'm' .. first)
    first = first + 1
end
redis.call('HSET', KEYS[1], 'first', first)
if ARGV[4] == '' then
    redis.call('PERSIST', KEYS[1])
else
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
    if redis.call('PTTL', KEYS[2]) > tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
end
return false
"""
HISTORY = """
-- the conversation; most turns, most bytes
local told = redis.call('HMGET', KEYS[1], 'first', 'last', 'summary_turn', 'summary')
local found = {told[3], told[4], 0}
if not told[2] then return found end
local first = math.max(told[1], told[2] - ARGV[1] + 1)
local size = 0
for sequence = tonumber(told[2]), first, -1 do
    size = size + redis.call('HSTRLEN', KEYS[1], 't' .. sequence)
    if size > tonumber(ARGV[2]) and sequence < tonumber(told[2]) then
        found[3] = 1
        break
    end
    local turn = redis.call('HMGET', KEYS[1], 'm' .. sequence, 't' .. sequence)
    table.insert(found, sequence)
    table.insert(found, turn[1])
    table.insert(found, turn[2])
end
return found
"""
SUMMARISE = """
-- the conversation; turn id, text
local sequence = redis.call('HGET', KEYS[1], 'i' .. ARGV[1])
if not sequence then return 0 end
if tonumber(redis.call('HGET', KEYS[1], 'summary_sequence') or 0) >= tonumber(sequence) then return 0 end
redis.call('HSET', KEYS[1], 'summary_turn', ARGV[1], 'summary', ARGV[2], 'summary_sequence', sequence)
return 1
"""
CLEAR = """
-- the conversation, what was answered in it
local told = redis.call('HMGET', KEYS[1], 'first', 'last')
redis.call('DEL', KEYS[1], KEYS[2])
return told[2] and told[2] - told[1] + 1 or 0
"""
FORGET = """
-- the runs by age; the time before which they are too old, how many are kept
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1])
local more = redis.call('ZCARD', KEYS[1]) - #old - tonumber(ARGV[2])
if more > 0 then
    for _, run in ipairs(redis.call('ZRANGE', KEYS[1], #old, #old + more - 1)) do table.insert(old, run) end
end
for _, run in ipairs(old) do
    redis.call('DEL', run)
    redis.call('ZREM', KEYS[1], run)
end
return #old
"""
