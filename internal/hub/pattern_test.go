package hub

import (
	"strings"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

func TestPatternMatch(t *testing.T) {
	for _, tc := range []struct {
		pattern string
		matches []string
		refuses []string
	}{
		{"lobby", []string{"lobby"}, []string{"", "lobb", "lobbyx", "xlobby", "Lobby"}},
		{"*", []string{"", "a", "a/b:c@d.e-f_g", "*"}, nil},
		{"**", []string{"", "a"}, nil},
		{"chat:*", []string{"chat:", "chat:1", "chat:a/b", "chat:a:b"}, []string{"chat", "xchat:1", "Chat:1"}},
		{"*:log", []string{":log", "a:log", "a:log:log"}, []string{"a:log:", "log"}},
		{"a*a", []string{"aa", "aba", "aaa"}, []string{"a", "ab", "ba"}},
		{"ab*ba", []string{"abba", "ab-ba"}, []string{"aba"}},
		{"a*b*c", []string{"abc", "axbxc", "abbcc", "a-c-b-c"}, []string{"ac", "acb", "abcx", "xabc"}},
		{"*aab*", []string{"aab", "aaab", "xaaabx"}, []string{"aa-b", "ab"}},
		{"*a*a*", []string{"aa", "xaxax"}, []string{"a", "xax"}},
		{"a.b", []string{"a.b"}, []string{"axb"}},
	} {
		p, err := ParsePattern(tc.pattern)
		if err != nil {
			t.Errorf("ParsePattern(%q): %v", tc.pattern, err)
			continue
		}
		if p.String() != tc.pattern {
			t.Errorf("ParsePattern(%q).String() = %q", tc.pattern, p)
		}
		for _, room := range tc.matches {
			if !p.Match(room) {
				t.Errorf("%q does not match %q", tc.pattern, room)
			}
		}
		for _, room := range tc.refuses {
			if p.Match(room) {
				t.Errorf("%q matches %q", tc.pattern, room)
			}
		}
	}
}

func TestZeroPatternMatchesNoRoom(t *testing.T) {
	if (Pattern{}).Match("lobby") {
		t.Error("the zero pattern matches a room")
	}
}

func TestPatternCoversWhatItsTextMatches(t *testing.T) {
	for _, tc := range []struct {
		wide, narrow string
		covers       bool
	}{
		{"*", "chat:*", true},
		{"chat:*", "chat:*", true},
		{"chat:*", "chat:vip", true},
		{"chat:*", "chat:*:log", true},
		{"chat:vip", "chat:*", false},
		{"chat:*:log", "chat:*", false},
		{"a*", "*a", false},
	} {
		p, err := ParsePattern(tc.wide)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(tc.narrow); got != tc.covers {
			t.Errorf("%q matches the text of %q: %t", tc.wide, tc.narrow, got)
		}
	}
}

func TestParsePatternRefuses(t *testing.T) {
	for _, tc := range []struct{ pattern, message string }{
		{"", "empty"},
		{strings.Repeat("a", wire.MaxRoom+1), "201 characters"},
		{"a b", "other characters"},
		{"raum:ä", "other characters"},
		{"a?", "other characters"},
		{"{http.auth.user.id}", "other characters"},
		{"a\xff", "other characters"},
		{"a\x00", "other characters"},
	} {
		_, err := ParsePattern(tc.pattern)
		if err == nil {
			t.Errorf("ParsePattern(%q) succeeds", tc.pattern)
		} else if !strings.Contains(err.Error(), tc.message) {
			t.Errorf("ParsePattern(%q): %q does not say %q", tc.pattern, err, tc.message)
		}
	}
	if _, err := ParsePattern(strings.Repeat("*", wire.MaxRoom)); err != nil {
		t.Errorf("a pattern of %d bytes: %v", wire.MaxRoom, err)
	}
}

func FuzzPattern(f *testing.F) {
	for _, seed := range [][2]string{
		{"lobby", "lobby"}, {"*", ""}, {"a*b*c", "axbxc"}, {"ab*ba", "aba"}, {"*aab*", "aaab"}, {"a**a", "aa"}, {"chat:*", "chat:*:x"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, room string) {
		if len(pattern) > 24 || len(room) > 24 {
			t.Skip("the reference takes exponential time")
		}
		p, err := ParsePattern(pattern)
		if err != nil {
			t.Skip(err)
		}
		if got, want := p.Match(room), slowMatch(pattern, room); got != want {
			t.Errorf("%q matches %q: %t, want %t", pattern, room, got, want)
		}
	})
}

// slowMatch is Match by definition.
func slowMatch(pattern, room string) bool {
	if pattern == "" {
		return room == ""
	}
	if pattern[0] == '*' {
		return slowMatch(pattern[1:], room) || room != "" && slowMatch(pattern, room[1:])
	}
	return room != "" && pattern[0] == room[0] && slowMatch(pattern[1:], room[1:])
}
