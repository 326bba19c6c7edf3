package redisdb

import (
	"strings"
	"testing"
)

func TestParseURL(t *testing.T) {
	for _, test := range []struct {
		url      string
		want     Options
		tls      string // server name; empty: plain
		redacted string
	}{
		{url: "redis://localhost", want: Options{Addr: "localhost:6379"}, redacted: "redis://localhost:6379"},
		{url: "redis://localhost:6380/", want: Options{Addr: "localhost:6380"}, redacted: "redis://localhost:6380"},
		{url: "redis://10.0.0.1:6380/3", want: Options{Addr: "10.0.0.1:6380", DB: 3}, redacted: "redis://10.0.0.1:6380/3"},
		{url: "redis://[::1]/3", want: Options{Addr: "[::1]:6379", DB: 3}, redacted: "redis://[::1]:6379/3"},
		{url: "redis://:pass@localhost", want: Options{Addr: "localhost:6379", Password: "pass"}, redacted: "redis://localhost:6379"},
		{url: "redis://ann:p%40ss%2F%23@localhost", want: Options{Addr: "localhost:6379", Username: "ann", Password: "p@ss/#"}, redacted: "redis://localhost:6379"},
		{url: "rediss://ann:pass@redis.example:6380/1", want: Options{Addr: "redis.example:6380", Username: "ann", Password: "pass", DB: 1}, tls: "redis.example", redacted: "rediss://redis.example:6380/1"},
		{url: "unix:///run/redis.sock", want: Options{Addr: "/run/redis.sock"}, redacted: "unix:///run/redis.sock"},
		{url: "unix://ann:pass@/run/redis.sock?db=2", want: Options{Addr: "/run/redis.sock", Username: "ann", Password: "pass", DB: 2}, redacted: "unix:///run/redis.sock?db=2"},
	} {
		t.Run(test.url, func(t *testing.T) {
			got, err := ParseURL(test.url)
			if err != nil {
				t.Fatal(err)
			}
			if s := got.Redacted(); s != test.redacted {
				t.Errorf("redacted %q, want %q", s, test.redacted)
			}
			var name string
			if got.TLS != nil {
				name = got.TLS.ServerName
			}
			if name != test.tls {
				t.Errorf("TLS for %q, want %q", name, test.tls)
			}
			got.TLS = nil
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestParseURLErrors(t *testing.T) {
	for _, test := range []struct{ name, url, want string }{
		{"fail/empty", "", "must start with redis://"},
		{"fail/no-scheme", "localhost:6379", "must start with redis://"},
		{"fail/no-scheme-secret", "ann:hunter2@localhost:6379", "must start with redis://"},
		{"fail/other-scheme", "http://ann:hunter2@localhost", "unknown scheme"},
		{"fail/host", "redis://", "host is missing"},
		{"fail/host-only-port", "redis://:6379", "host is missing"},
		{"fail/port", "redis://localhost:70000", "port must be a number from 1 to 65535"},
		{"fail/port-word", "redis://localhost:redis", "malformed"},
		{"fail/db", "redis://localhost/zero", "database must be a number from 0 to 65535"},
		{"fail/db-negative", "redis://localhost/-1", "database must be a number from 0 to 65535"},
		{"fail/db-two", "redis://localhost/1/2", "database must be a number from 0 to 65535"},
		{"fail/parameter", "redis://localhost?db=1", "takes no parameters"},
		{"fail/slash-in-password", "redis://:6hunter2/hunter2@localhost", "malformed"},
		{"fail/slash-after-digits", "redis://ann:6379/hunter2@localhost", "database must be"},
		{"fail/hash-in-password", "redis://ann:6379#hunter2@localhost", "write / as %2F"},
		{"fail/question-in-password", "redis://ann:6379?hunter2@localhost", "takes no parameters"},
		{"fail/percent-in-password", "redis://ann:%hunter2@localhost", "malformed"},
		{"fail/relative-socket", "unix://run/redis.sock", "absolute path"},
		{"fail/no-socket", "unix://", "absolute path"},
		{"fail/socket-parameter", "unix:///run/redis.sock?password=hunter2", "only parameter allowed is db"},
		{"fail/socket-db", "unix:///run/redis.sock?db=hunter2", "database must be a number"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseURL(test.url)
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q, want %q in it", err, test.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %q gives the password away", err)
			}
		})
	}
}
