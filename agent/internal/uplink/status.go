package uplink

import (
	"sync"
	"time"
)

// Status is whether there is a session, for people on the node.
type Status struct {
	// Connected tells whether the controller has accepted one.
	Connected bool
	// Address of the controller, host:port, that was last tried.
	Address string
	// Since is when the session began or was lost; zero: there was none yet.
	Since time.Time
	// Problem says why there is none.
	Problem string
}

// board is where the status is kept for readers.
type board struct {
	mu     sync.Mutex
	status Status
}

// Status returns whether there is a session. It is safe for concurrent use.
func (u *Uplink) Status() Status {
	u.board.mu.Lock()
	defer u.board.mu.Unlock()
	return u.board.status
}

// connected notes that a session has begun.
func (b *board) connected(address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status = Status{Connected: true, Address: address, Since: time.Now()}
}

// lost notes that an attempt has ended, with a session or without one.
func (b *board) lost(address, problem string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	since := b.status.Since
	if b.status.Connected {
		since = time.Now()
	}
	b.status = Status{Address: address, Since: since, Problem: problem}
}
