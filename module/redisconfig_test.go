package module

import (
	"strings"
	"testing"
)

func TestParseURLRefuses(t *testing.T) {
	for _, tc := range []struct {
		url    string
		config RedisConfig
		want   string
	}{
		{"http://:secret@localhost", RedisConfig{}, "bad url: unknown scheme"},
		{"redis://:secret@localhost:secret", RedisConfig{}, "bad url: malformed"},
		{"redis://localhost?password=secret", RedisConfig{}, "bad url: takes no parameters"},
		{"redis://localhost/1", RedisConfig{DB: 2}, "db 2 contradicts the url"},
		{"redis://ann:secret@localhost", RedisConfig{Username: "bob"}, "username contradicts the url"},
		{"redis://:secret@localhost", RedisConfig{Password: "other"}, "password contradicts the url"},
		{"unix:///run/redis.sock", RedisConfig{TLS: new(RedisTLS)}, "tls contradicts the url"},
	} {
		_, err := tc.config.parseURL(tc.url)
		checkError(t, err, tc.want)
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the secret: %v", tc.url, err)
		}
	}
}
