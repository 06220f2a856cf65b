-- Prints mpv's media events, a word on a line.
local function tell(event)
    io.stdout:write(event, "\n")
    io.stdout:flush()
end

local begun = false
mp.register_event("playback-restart", function() begun = true; tell("playing") end)
mp.observe_property("paused-for-cache", "bool", function(_, waits)
    if begun then tell(waits and "waiting" or "playing") end
end)
mp.register_event("end-file", function(event) if event.reason == "eof" then tell("ended") end end)
