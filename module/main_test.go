package module

import (
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }
