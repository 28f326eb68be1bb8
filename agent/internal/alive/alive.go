// Package alive tells whether an agent lives on this machine: it holds a lock on a file
// in its state directory, which the kernel releases however it ends.
package alive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// patience is how long an agent that starts waits for the lock. Whoever only asks
	// for it holds it for less than a millisecond, Without for some.
	patience = time.Second
	// tryEvery is how often the lock is tried for.
	tryEvery = 10 * time.Millisecond
)

// Hold makes this process the agent of the state directory, until release. It fails
// when another one is.
func Hold(ctx context.Context, stateDir string) (release func(), err error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	release, err = take(ctx, stateDir, unix.LOCK_EX)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("state directory %s: another lb-agent uses it: stop that one, or set another state_dir", stateDir)
	}
	return release, err
}

// Without waits until no agent lives, and then does something before one may start. It
// does not when ctx ends before; the error is ctx's.
func Without(ctx context.Context, stateDir string, do func() error) error {
	release, err := take(ctx, stateDir, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer release()
	return do()
}

// take tries for the lock until ctx ends, once at least.
func take(ctx context.Context, stateDir string, how int) (release func(), err error) {
	file, err := open(stateDir)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(tryEvery)
	defer tick.Stop()
	for {
		taken, err := try(file, how)
		if taken {
			return func() { _ = file.Close() }, nil
		}
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), file.Close())
		}
	}
}

// open opens the file of the lock, on a read-only file system too.
func open(stateDir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(stateDir, "lock"), os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	return file, nil
}

// try takes the lock, which ends with the file, unless somebody has it.
func try(file *os.File, how int) (taken bool, err error) {
	err = unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return true, nil
}
