package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/lab"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// soakWriter changes backends of its own, one change after the other.
type soakWriter struct {
	*soak
	id      int
	backend string
	dead    bool // nobody listens there
	random  *rand.Rand

	made   int
	weight uint32
	out    bool // of service
	extra  bool // there is a backend more
}

// next makes one change, which is a revision.
func (w *soakWriter) next(ctx context.Context) error {
	w.made++
	request, name := fmt.Sprintf("soak-%d-%d", w.id, w.made), backendName(w.backend)
	var err error
	switch n := w.random.IntN(10); {
	case n < 5:
		w.weight = 1 + (w.weight+1+w.random.Uint32N(200))%256 // another one than before
		_, err = w.config.UpdateBackend(ctx, &tandemv1.UpdateBackendRequest{
			Backend:    &tandemv1.Backend{Name: name, Weight: &w.weight},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"weight"}}, RequestId: request})
	case n < 8:
		state := "drain"
		switch w.out = !w.out; {
		case !w.out:
			state = "ready"
		case !w.dead && n == 5: // out of maintenance HAProxy takes it for healthy at once
			state = "maintenance"
		}
		_, err = w.config.UpdateOverride(ctx, &tandemv1.UpdateOverrideRequest{
			Override: &tandemv1.Override{Name: name + "/override", State: state}, RequestId: request})
	default:
		w.extra = !w.extra
		err = w.setThere(ctx, fmt.Sprintf("extra%d", w.id), uint32(200+w.id), w.extra, request)
	}
	w.changes.Add(1)
	return err
}

// setThere adds or removes a backend at a port that nobody listens at, so that
// it gets no traffic.
func (k *soak) setThere(ctx context.Context, id string, port uint32, there bool, request string) error {
	if !there {
		_, err := k.config.DeleteBackend(ctx, &tandemv1.DeleteBackendRequest{Name: backendName(id), RequestId: request})
		return err
	}
	_, err := k.config.CreateBackend(ctx, &tandemv1.CreateBackendRequest{
		Parent: cluster.Name + "/pools/web_servers", BackendId: id, RequestId: request,
		Backend: &tandemv1.Backend{Address: "192.168.1.20", Port: port}})
	return err
}

// soakAgent is an agent whose connection is cut as soon as it has a session, or
// a pause later.
type soakAgent struct {
	name  string
	host  *lab.Host
	log   string
	pause time.Duration

	read     int64 // bytes of the log
	sessions atomic.Int64
	applied  atomic.Int64 // targets put in effect
	cut      int64        // the session that was cut last
	cutTime  time.Time
}

// next cuts the connection if there is a session that was not cut.
func (a *soakAgent) next(ctx context.Context) error {
	if err := a.follow(); err != nil {
		return err
	}
	begun := a.sessions.Load()
	if begun == a.cut || time.Since(a.cutTime) < a.pause {
		return nil
	}
	_, err := a.host.Output(ctx, "ss", "-K", "-t", "state", "established", "dport", "=", ":9443")
	a.cut, a.cutTime = begun, time.Now()
	return err
}

// follow counts what the agent has logged since.
func (a *soakAgent) follow() error {
	file, err := os.Open(a.log)
	if err != nil {
		return err
	}
	defer file.Close()
	text, err := io.ReadAll(io.NewSectionReader(file, a.read, 1<<30))
	if err != nil {
		return err
	}
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	a.read += int64(len(whole))
	a.sessions.Add(int64(bytes.Count(whole, []byte(": session with the controller:"))))
	a.applied.Add(int64(bytes.Count(whole, []byte(": configuration in effect:"))))
	return nil
}
