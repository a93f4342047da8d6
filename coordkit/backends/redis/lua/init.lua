-- Says of this server, on the operator's word, that it has forgotten nothing: it counts at once.
--
-- Only where nothing was ever recorded, and nothing else is stored. The answer is "marked", or why not.

local answers = {}
if counted then
    local records = redis.call('HLEN', hash) - 1
    local others = redis.call('DBSIZE') - 1
    if standing == 'healthy' then
        answers[1] = 'healthy already'
    elseif records > 0 or others > 0 then
        answers[1] = 'not empty'
    else
        birth = unused
        mark('healthy')
        answers[1] = 'marked'
    end
end
return answer(answers)
