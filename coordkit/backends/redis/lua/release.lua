-- Gives back what an attempt has, or may have: its seat becomes free, and its late votes will fail.
--
-- ARGV from 4, for each election: election, epoch, attempt, beat.
-- Another's seat stays as it is but for the floor: to free it would make two leaders. Where there is no record, one is
-- written that no memory has: whoever comes next needs an epoch above the clock, as without it.
-- Each answer is a pair: "released", "passed" or "unreadable", and the record as it now is.

local function release(election, epoch, attempt, beat)
    local old = read(election)
    if not old then
        return 'passed', write(election, nil, {
            epoch = '0', floor = epoch, attempt = attempt, beat = beat, state = 'released', ttl = '0', birth = '-', value = '',
        })
    end
    if not old.readable then
        return 'unreadable', ''
    end
    local mine = old.attempt == attempt
    local floor = larger(epoch, old.floor_digits)
    if (mine and not old.held) or (not mine and floor == old.floor_digits) then
        return mine and 'released' or 'passed', old.text -- once more
    end
    return mine and 'released' or 'passed', write(election, mine and 'released' or nil, {
        epoch = old.epoch_digits, floor = floor, attempt = old.attempt,
        beat = mine and larger(beat, old.beat_digits) or old.beat_digits,
        state = (mine or not old.held) and 'released' or 'held', ttl = old.ttl, birth = old.birth, value = old.value,
    })
end

local answers = {}
if counted then
    for place = 4, #ARGV, 4 do
        answers[#answers + 1] = {release(ARGV[place], ARGV[place + 1], ARGV[place + 2], ARGV[place + 3])}
    end
end
return answer(answers)
