-- What every script of a voter begins with: who asks, and whether this voter may be counted.
--
-- KEYS[1] is the one hash in which a voter keeps all it knows: its marker, and one record for each election. It never
-- expires. ARGV: 1 nonce, 2 config, 3 an id that nobody has used, then what the script itself says.
--
-- The marker reads "state birth memory config". `memory` is the run of the server that wrote it: a server that was
-- started again, or has followed another, may have forgotten votes. `birth` is the identity of one memory. While the
-- state is "unknown" the voter grants nothing, until somebody names a birth that it has watched for the quarantine.
--
-- A record reads "epoch floor attempt beat state ttl birth value". `attempt` and `beat` together are its stamp, which
-- no two writes share. A record of another birth was written by a memory that may have lost newer ones.
--
-- The field "forgotten" is the highest epoch of all records that an operator has taken away.
--
-- Every answer begins: nonce, standing, birth, memory, time, detail. The time is for the floor of new epochs alone.

local hash, nonce, config, unused = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local OUT_OF_RANGE = 9007199254740992 -- 2^53: from there on numbers of Lua are not exact
local standing, birth, memory, detail = 'healthy', '', '', ''

local function told(info, name)
    return string.match(info, '\n' .. name .. ':([^\r\n]*)') or ''
end

local function mark(state)
    standing = state
    redis.call('HSET', hash, 'marker', state .. ' ' .. birth .. ' ' .. memory .. ' ' .. config)
end

-- Finds out how this voter stands, and writes a marker where there is none of this memory.
local function examine()
    local replication = redis.call('INFO', 'replication')
    memory = told(redis.call('INFO', 'server'), 'run_id') .. ':' .. told(replication, 'master_replid')
    if told(replication, 'role') ~= 'master' then
        standing = 'replica'
        return
    end
    local text = redis.call('HGET', hash, 'marker')
    local state, born, run, agreed = string.match(text or '', '^(%l+) (%S+) (%S+) (%S+)$')
    if text and not (state == 'healthy' or state == 'unknown') then
        standing = 'foreign'
    elseif text and agreed ~= config then
        standing, birth, detail = 'config', born, agreed
    elseif run ~= memory then
        birth = unused
        mark('unknown')
    else
        standing, birth = state, born
    end
end

local function number(digits)
    local value = string.find(digits, '^%d+$') and #digits <= 16 and tonumber(digits)
    return value and value < OUT_OF_RANGE and value or nil
end

-- The record of an election; nil: there is none. Its `readable` is false where somebody else has written there.
local function read(election)
    local text = redis.call('HGET', hash, 'e:' .. election)
    if not text then
        return nil
    end
    local epoch, floor, attempt, beat, state, ttl, born, value =
        string.match(text, '^(%d+) (%d+) (%S+) (%d+) (%l+) (%d+) (%S+) (.*)$')
    local record = {
        epoch = epoch and number(epoch), floor = floor and number(floor), attempt = attempt,
        beat = beat and number(beat), held = state == 'held', ttl = ttl, birth = born, value = value,
        text = text, epoch_digits = epoch, floor_digits = floor, beat_digits = beat,
    }
    record.readable = record.epoch and record.floor and record.beat and (state == 'held' or state == 'released')
        and true or false
    if record.readable then
        -- The highest epoch that this voter has granted, or has been told never to grant.
        record.highest = record.epoch > record.floor and epoch or floor
    end
    return record
end

-- Epochs travel as digits: Lua would write large numbers in another way.
local function larger(one, other)
    return number(one) > number(other) and one or other
end

-- The clock may be the floor only in the memory in which it was read, and above what was taken away since: what was
-- granted and forgotten after the clock was read is above it.
local function is_floor(clock, clock_of)
    local read_at, gone = number(clock), redis.call('HGET', hash, 'forgotten')
    return clock_of == birth and read_at ~= nil and read_at > (gone and number(gone) or 0)
end

-- Writes a record and tells whoever listens; a word that is lost only delays.
local function write(election, word, record)
    local stamped = record.epoch .. ' ' .. record.floor .. ' ' .. record.attempt .. ' ' .. record.beat .. ' '
        .. record.state .. ' ' .. record.ttl .. ' ' .. record.birth
    redis.call('HSET', hash, 'e:' .. election, stamped .. ' ' .. record.value)
    if word then
        local channel = hash .. ':' .. election
        local heard = redis.pcall('PUBSUB', 'NUMSUB', channel)
        local listening = type(heard) == 'table' and heard[2] or 0
        redis.pcall('PUBLISH', channel, word .. ' ' .. string.format('%d', listening) .. ' ' .. stamped)
    end
    return stamped .. ' ' .. record.value
end

local function now()
    local time = redis.call('TIME')
    local micros = time[1] .. string.format('%06d', tonumber(time[2]))
    return micros
end

local function answer(answers)
    return {nonce, standing, birth, memory, now(), detail, answers}
end

examine()
local counted = standing == 'healthy' or standing == 'unknown'
