package presence

import (
	"embed"

	"github.com/redis/go-redis/v9"
)

//go:embed scripts/*.lua
var scriptFiles embed.FS

// The scripts. Each is atomic, may be run again with the same arguments without a further effect, and goes by the clock of Redis.
// What an instance writes is fenced: the script counts it in the counter of the instance, which is gone once it was reaped.
var (
	registerScript  = load("register")
	heartbeatScript = load("heartbeat")
	touchScript     = load("touch")
	changeScript    = load("change")
	usersScript     = load("users")
	statusScript    = load("status")
	retireScript    = load("retire")
	reapFence       = load("reap_fence")
	reapRoom        = load("reap_room")
	reapUsers       = load("reap_users")
	reapEnd         = load("reap_end")
)

// allScripts is filled by load.
var allScripts []*redis.Script

func load(name string) *redis.Script {
	source, err := scriptFiles.ReadFile("scripts/" + name + ".lua")
	if err != nil {
		panic(err) // embedded at build time
	}
	script := redis.NewScript(string(source))
	allScripts = append(allScripts, script)
	return script
}

// keys names the keys and channels under a prefix.
type keys string

func (k keys) leases() string              { return string(k) + ":L" }
func (k keys) counters() string            { return string(k) + ":W" }
func (k keys) reasons() string             { return string(k) + ":R" }
func (k keys) rooms() string               { return string(k) + ":rooms" }
func (k keys) roomsOf(iid string) string   { return string(k) + ":ri:" + iid }
func (k keys) usersOf(iid string) string   { return string(k) + ":ui:" + iid }
func (k keys) members(room string) string  { return string(k) + ":m:" + room }
func (k keys) counts(room string) string   { return string(k) + ":u:" + room }
func (k keys) seq(room string) string      { return string(k) + ":x:" + room }
func (k keys) departed(room string) string { return string(k) + ":d:" + room }
func (k keys) user(user string) string     { return string(k) + ":us:" + user }
func (k keys) online() string              { return string(k) + ":on" }
func (k keys) seen() string                { return string(k) + ":seen" }
