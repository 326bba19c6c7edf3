package module

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/presence/archive"
)

// validateDatabase tells what is wrong with the database, as far as that can be told with placeholders in it. Its errors contain nothing of
// the name.
func (p *PresenceConfig) validateDatabase() error {
	if p.Database == "" || strings.Contains(p.Database, "{") {
		return nil
	}
	return checkDatabase(p.Database)
}

func checkDatabase(dsn string) error {
	if err := archive.Check(dsn); err != nil {
		return fmt.Errorf("presence: database: %w", err)
	}
	return nil
}

// database returns the name of the database with everything filled in; "" for none.
func (p *PresenceConfig) database() (string, error) {
	if p.Database == "" {
		return "", nil
	}
	dsn, err := caddy.NewReplacer().ReplaceOrErr(p.Database, true, true)
	if err != nil {
		return "", fmt.Errorf("presence: database: %w", err)
	}
	return dsn, checkDatabase(dsn)
}

// useDatabase makes the database with that name, which was checked, the hub's; "" for none. The hub is bound. It waits for nothing, and must not
// be called by two goroutines at once.
func (s *sharedHub) useDatabase(dsn string) {
	if dsn == s.database {
		return
	}
	s.database = dsn
	if dsn == "" {
		s.Archive(nil)
		return
	}
	a, err := archive.Open(dsn, archive.Options{
		Hub: cmp.Or(s.key.redis.prefix, defaultKeyPrefix) + ":" + s.key.name, Logger: s.logger.Named("database"),
		Dropped: s.metrics.DroppedDatabase.Inc,
	})
	if err != nil {
		s.logger.Error("opening presence database", zap.Error(err))
		return
	}
	s.Archive(a)
}
