package module

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// parseRedis parses the redis subdirective: bare, with a URL, with a block, or with both.
func (h *Handler) parseRedis(d *caddyfile.Dispenser) error {
	r := &RedisConfig{URLs: d.RemainingArgs()}
	h.Redis = r
	return parseBlock(d, "redis", []subdirective{
		{word: "mode", parse: word(&r.Mode, modeWords)},
		{word: "username", parse: text(&r.Username)},
		{word: "password", parse: text(&r.Password)},
		{word: "db", parse: number(&r.DB, redisDB)},
		{word: "key_prefix", parse: text(&r.KeyPrefix)},
		{word: "tls", parse: r.parseTLS},
		{word: "timeout", parse: duration(&r.Timeout, redisTimeout)},
		{word: "pool_size", parse: number(&r.PoolSize, redisPoolSize)},
	})
}

// parseTLS parses the tls subdirective of redis: bare, or with a block.
func (r *RedisConfig) parseTLS(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	t := new(RedisTLS)
	r.TLS = t
	return parseBlock(d, "tls", []subdirective{
		{word: "ca", parse: text(&t.CA)},
		{word: "cert", parse: text(&t.Cert)},
		{word: "key", parse: text(&t.Key)},
		{word: "server_name", parse: text(&t.ServerName)},
		{word: "insecure_skip_verify", parse: flag(&t.InsecureSkipVerify)},
	})
}
