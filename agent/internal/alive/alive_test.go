package alive

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAnAgentIsKnownToLive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	release, err := Hold(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Hold(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "another lb-agent uses it") {
		t.Errorf("a second one: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	never := func() error { t.Error("done beside an agent"); return nil }
	if err := Without(ctx, dir, never); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without an agent: %v", err)
	}
	release()
	if err := Without(t.Context(), dir, func() error { return nil }); err != nil {
		t.Errorf("after its end: %v", err)
	}
}

// Whoever acts for a dead agent is done before the next one begins, which waits.
func TestAnAgentWaitsForWhoeverActsForIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	release, err := Hold(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	acted := make(chan struct{})
	held := make(chan error)
	ended := make(chan error, 1)
	go func() {
		ended <- Without(t.Context(), dir, func() error {
			go func() {
				release, err := Hold(t.Context(), dir)
				if err == nil {
					release()
				}
				select {
				case <-acted:
				default:
					err = errors.New("it began before")
				}
				held <- err
			}()
			time.AfterFunc(100*time.Millisecond, func() { close(acted) })
			<-acted
			return nil
		})
	}()
	release()
	if err := errors.Join(<-held, <-ended); err != nil {
		t.Error(err)
	}
}
