package haproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tandem-lb/tandem/agent/internal/crash"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// site is what the file depends on beside its configuration. The driver keeps
// it on disk for starts without the agent, whose own configuration file may be
// wrong then.
type site struct {
	Binary      string             `json:"binary"`
	Environment config.Environment `json:"environment"`
}

// keepSite writes down the site, if it is another one.
func (p *paths) keepSite(s site) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(p.site); err == nil && bytes.Equal(old, text) {
		return nil
	}
	return writeFile(p.site, text)
}

// BeforeStart makes the file right that HAProxy is about to be started with, and
// everything else that it needs. It takes neither agent nor controller. Without
// a configuration, or with one that cannot be used, it is the last file that
// HAProxy was confirmed with; told says why then. The error says that there is
// no file at all.
func BeforeStart(ctx context.Context, stateDir, runDir string, c *haproxyv1.Config) (told, err error) {
	p, err := makePaths(stateDir, runDir)
	if err != nil {
		return nil, fmt.Errorf("haproxy: %w", err)
	}
	if _, err := os.Stat(p.states); errors.Is(err, fs.ErrNotExist) {
		if err := p.writeStates(nil); err != nil {
			told = fmt.Errorf("haproxy: %w", err) // it warns of the missing file, no more
		}
	}
	var s site
	text, err := os.ReadFile(p.site)
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil && c != nil {
		told, c = errors.Join(told, fmt.Errorf("the last file that was in effect is used: %s: %w", p.site, err)), nil
	}
	replaced, err := p.prepare(ctx, c, s)
	return errors.Join(told, replaced), err
}

// prepare is BeforeStart for a known site.
func (p *paths) prepare(ctx context.Context, c *haproxyv1.Config, s site) (told, err error) {
	if c != nil {
		if told = p.installChecked(ctx, c, s); told == nil {
			return nil, nil
		}
		told = fmt.Errorf("the last good configuration cannot be used, but the last file that was in effect: %w", told)
	}
	good, err := readOurs(p.good)
	if err == nil && good != nil {
		current, unread := p.current()
		if unread != nil {
			return told, fmt.Errorf("haproxy: %w", unread)
		}
		if !bytes.Equal(current, good) {
			err = p.installGood()
		}
	}
	if err != nil {
		told = errors.Join(told, err)
	}
	switch current, err := p.current(); {
	case err != nil:
		return told, fmt.Errorf("haproxy: %w", errors.Join(err, told))
	case current == nil && told != nil:
		return told, fmt.Errorf("haproxy: no file to start with: %w", told)
	case current == nil:
		return nil, fmt.Errorf("haproxy: no file to start with: neither a last good configuration nor %s is here to be used", p.good)
	}
	return told, nil
}

// installChecked makes a configuration the file, if the checker takes it.
func (p *paths) installChecked(ctx context.Context, c *haproxyv1.Config, s site) error {
	file, err := config.Render(c, s.Environment)
	if err != nil {
		return err
	}
	current, err := p.current()
	if err != nil || bytes.Equal(current, file.Text) {
		return err
	}
	// Not the candidate's name: the agent may be about to use that.
	path := p.file + ".start"
	if err := writeFile(path, file.Text); err != nil {
		return err
	}
	if err := (binary{path: s.Binary}).check(ctx, path); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	if err := p.installFrom(path); err != nil {
		return err
	}
	crash.StartFileReplaced.Pass()
	return nil
}
