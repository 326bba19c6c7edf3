package module

import (
	"strings"
	"testing"
)

func TestParseURL(t *testing.T) {
	for _, tc := range []struct {
		url  string
		want redisURL
	}{
		{"redis://localhost", redisURL{addr: "localhost:6379"}},
		{"redis://localhost/", redisURL{addr: "localhost:6379"}},
		{"redis://10.0.0.1:7000/3", redisURL{addr: "10.0.0.1:7000", db: 3}},
		{"redis://[::1]", redisURL{addr: "[::1]:6379"}},
		{"rediss://ann:p%40ss@redis.example.com", redisURL{addr: "redis.example.com:6379", username: "ann", password: "p@ss", tls: true}},
		{"redis://:secret@localhost", redisURL{addr: "localhost:6379", password: "secret"}},
		{"unix:///run/redis.sock", redisURL{addr: "/run/redis.sock"}},
		{"unix://ann:secret@/run/redis.sock", redisURL{addr: "/run/redis.sock", username: "ann", password: "secret"}},
		{defaultRedisURL, redisURL{addr: "localhost:6379"}},
	} {
		got, err := new(RedisConfig).parseURL(tc.url)
		if err != nil || got != tc.want {
			t.Errorf("%s: got %+v, %v; want %+v", tc.url, got, err, tc.want)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for _, tc := range []struct {
		url    string
		config RedisConfig
		want   string
	}{
		{"", RedisConfig{}, "bad url (allowed: redis://host:port/db, rediss://host:port/db, unix:///path)"},
		{"localhost:6379", RedisConfig{}, "bad url (allowed:"},
		{"http://:secret@localhost", RedisConfig{}, "bad url (allowed:"},
		{"redis://:secret@localhost:secret", RedisConfig{}, "bad url (allowed:"},
		{"redis://:secret%zz@localhost", RedisConfig{}, "bad url (allowed:"},
		{"redis:secret", RedisConfig{}, "bad url: it has more than"},
		{"redis://localhost?password=secret", RedisConfig{}, "bad url: it has more than"},
		{"redis://localhost#secret", RedisConfig{}, "bad url: it has more than"},
		{"redis://:secret@:6379", RedisConfig{}, "the host is missing"},
		{"redis://localhost/secret", RedisConfig{}, "the db after the host is not a number"},
		{"redis://localhost/-1", RedisConfig{}, "the db after the host is not a number"},
		{"redis://localhost/1/2", RedisConfig{}, "the db after the host is not a number"},
		{"redis://localhost/1", RedisConfig{DB: 2}, "db 2 contradicts the url"},
		{"redis://ann:secret@localhost", RedisConfig{Username: "bob"}, "username contradicts the url"},
		{"redis://:secret@localhost", RedisConfig{Password: "other"}, "password contradicts the url"},
		{"unix://redis.sock", RedisConfig{}, "a socket needs an absolute path"},
		{"unix:///", RedisConfig{}, "a socket needs an absolute path"},
		{"unix:///run/redis.sock", RedisConfig{TLS: new(RedisTLS)}, "tls contradicts the url"},
	} {
		_, err := tc.config.parseURL(tc.url)
		checkError(t, err, tc.want)
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the secret: %v", tc.url, err)
		}
	}
}
