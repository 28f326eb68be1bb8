package ledger

import (
	"context"
	"fmt"
	"time"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/crash"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

const (
	// maxBatch bounds how many changes share a transaction.
	maxBatch = 256
	// retryExpiry is the pause after an override's end could not be stored.
	retryExpiry = time.Second
	// lookAgain bounds the wait for an override's end: the wall clock, by which
	// it ends, may be set.
	lookAgain = time.Minute
)

// job is a request on its way through the writer.
type job struct {
	Request
	cluster  string
	creates  bool
	finished chan struct{} // closed when result and err hold

	result   Result
	err      error
	repeated uint64 // the revision that the request made before
}

// writer is what only the goroutine that makes changes knows.
type writer struct {
	ended    map[string]uint64    // last revisions of deleted clusters
	requests map[string]*requests // by cluster
	unsure   bool                 // whether the last changes are in the store
}

// Run makes changes until ctx ends. It is called once.
func (l *Ledger) Run(ctx context.Context) error {
	defer close(l.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	confirmed := l.Confirmed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case j := <-l.queue:
			l.carryOut(context.WithoutCancel(ctx), l.drain(j))
		case <-confirmed:
			confirmed = nil
		case <-l.pulse:
		case <-timer.C:
		}
		timer.Reset(l.expire(context.WithoutCancel(ctx)))
	}
}

// drain returns all jobs that wait now.
func (l *Ledger) drain(first *job) []*job {
	jobs := []*job{first}
	for len(jobs) < maxBatch {
		select {
		case j := <-l.queue:
			jobs = append(jobs, j)
		default:
			return jobs
		}
	}
	return jobs
}

// expire ends the overrides whose time has come. It returns how long to wait
// before the next call.
func (l *Ledger) expire(ctx context.Context) time.Duration {
	if l.Ready() != nil {
		return lookAgain
	}
	due, _ := l.expiries(time.Now())
	var jobs []*job
	for _, cluster := range due {
		jobs = append(jobs, &job{cluster: cluster, Request: Request{
			Change: state.ExpireOverrides(), Author: Controller, Message: "override expired"}})
	}
	if len(jobs) > 0 {
		l.carryOut(ctx, jobs)
	}
	for _, j := range jobs {
		if j.err != nil {
			return retryExpiry
		}
		if r := j.result.Revision; r != nil {
			l.announce(j.cluster, r)
		}
	}
	_, next := l.expiries(time.Now())
	if next.IsZero() {
		return lookAgain
	}
	return min(max(time.Until(next), 0), lookAgain)
}

// carryOut makes the changes of jobs: in order, in one transaction. It finishes each.
func (l *Ledger) carryOut(ctx context.Context, jobs []*job) {
	b := &batch{Ledger: l, heads: map[string]*state.Config{}, now: time.Now()}
	err := l.catchUp(ctx)
	if err == nil {
		for _, j := range jobs {
			j.err = b.add(j)
		}
		err = b.write(ctx)
	}
	if err != nil {
		l.unsure = true
		l.log.Error("changes could not be stored", "changes", len(jobs), "error", err)
		for _, j := range jobs { // all were judged by what has not come to be
			j.result, j.err = Result{}, fmt.Errorf("the change could not be stored: %w", err)
		}
	}
	for _, j := range jobs {
		if j.repeated != 0 && j.err == nil {
			j.result.Revision, j.err = l.store.Revision(ctx, j.cluster, j.repeated)
		}
		if j.finished != nil {
			close(j.finished)
		}
	}
	if len(b.commits) > 0 {
		crash.Answered.Pass()
	}
}

// catchUp publishes, after changes that could not be stored, what the store has
// of them: they are absent or whole.
func (l *Ledger) catchUp(ctx context.Context) error {
	if !l.unsure {
		return nil
	}
	if err := l.store.Settle(ctx); err != nil {
		return err
	}
	heads, err := l.store.Heads(ctx)
	if err != nil {
		return err
	}
	for _, h := range heads {
		known := l.ended[h.Cluster]
		if c, err := l.Head(h.Cluster); err == nil {
			known = c.Revision()
		}
		if h.Revision == known {
			continue
		}
		if err := l.load(ctx, h); err != nil {
			return err
		}
		if h.Deleted {
			l.publish([]*state.Config{state.New(h.Cluster, l.Epoch(), h.Revision)})
		}
	}
	l.unsure = false
	return nil
}

// batch is the changes of one transaction in the making.
type batch struct {
	*Ledger
	now       time.Time
	heads     map[string]*state.Config // as the batch leaves them
	configs   []*state.Config          // all that it makes
	commits   []store.Commit
	unchanged []*job // requests that changed nothing
}

// head returns a cluster as the batch has made it so far, nil if it does not
// exist.
func (b *batch) head(cluster string) *state.Config {
	c := b.heads[cluster]
	if c == nil {
		c, _ = b.Head(cluster)
	}
	if c == nil || c.Deleted() {
		return nil
	}
	return c
}

// base returns what a job changes.
func (b *batch) base(j *job) (*state.Config, error) {
	if c := b.head(j.cluster); c != nil {
		return c, nil
	}
	if !j.creates {
		return nil, unknown(j.cluster)
	}
	if err := state.CheckID(state.KindCluster, j.cluster, "cluster_id"); err != nil {
		return nil, err
	}
	return b.absent(j.cluster), nil
}

// absent returns a cluster that does not exist, not yet or no longer.
func (b *batch) absent(cluster string) *state.Config {
	last := b.ended[cluster]
	if c := b.heads[cluster]; c != nil { // deleted in this batch
		last = c.Revision()
	}
	return state.New(cluster, b.Epoch(), last)
}

// others returns the heads of all other clusters.
func (b *batch) others(cluster string) []*state.Config {
	var out []*state.Config
	for _, id := range b.Clusters() {
		if _, ok := b.heads[id]; !ok && id != cluster {
			out = append(out, b.head(id))
		}
	}
	for id, c := range b.heads {
		if id != cluster && !c.Deleted() {
			out = append(out, c)
		}
	}
	return out
}

// add makes one job's change in the batch.
func (b *batch) add(j *job) error {
	if !j.ValidateOnly {
		if number, ok := b.seen(j); ok {
			j.repeated = number
			j.result = Result{Config: b.head(j.cluster), Repeated: true}
			if j.result.Config == nil {
				j.result.Config = b.absent(j.cluster)
			}
			return nil
		}
	}
	base, err := b.base(j)
	if err != nil {
		return err
	}
	next, changes, err := base.Apply(j.Change, state.Env{
		Now: b.now, Author: j.Author, Others: b.others(j.cluster), Reserved: b.reserved(base), Passwords: b.passwords})
	if err != nil {
		return err
	}
	j.result = Result{Config: next}
	if len(changes) == 0 {
		b.unchanged = append(b.unchanged, j)
		return nil
	}
	j.result.Revision = b.revision(j, next, changes)
	if j.ValidateOnly {
		return nil
	}
	b.heads[j.cluster] = next
	b.configs = append(b.configs, next)
	b.commits = append(b.commits, store.Commit{
		Cluster: j.cluster, Base: base.Revision(), Revision: j.result.Revision,
		Secrets: next.SecretsSince(base), Counters: next.Counters(), Deleted: next.Deleted(),
	})
	return nil
}

// seen tells whether a request with the same id was made before, also in this
// batch.
func (b *batch) seen(j *job) (number uint64, ok bool) {
	if j.RequestID == "" {
		return 0, false
	}
	for _, k := range b.commits {
		if r := k.Revision; k.Cluster == j.cluster && r.GetRequestId() == j.RequestID && r.GetAuthor() == j.Author {
			return r.GetNumber(), true
		}
	}
	return b.requests[j.cluster].get(j.Author, j.RequestID)
}

func (b *batch) revision(j *job, c *state.Config, changes []*tandemv1.Change) *tandemv1.Revision {
	return &tandemv1.Revision{
		Name:  fmt.Sprintf("%s/revisions/%d", state.ClusterName(c.ID()), c.Revision()),
		Epoch: c.Epoch(), Number: c.Revision(), Author: j.Author, CreateTime: timestamppb.New(b.now),
		Message: j.Message, RequestId: j.RequestID, Changes: changes,
	}
}

// write makes the batch durable and then publishes it.
func (b *batch) write(ctx context.Context) error {
	if len(b.commits) > 0 {
		crash.BeforeCommit.Pass()
		if err := b.store.Commit(ctx, b.commits); err != nil {
			return err
		}
		crash.Committed.Pass()
	}
	for i, k := range b.commits {
		b.known(k.Cluster).add(k.Revision.GetAuthor(), k.Revision.GetRequestId(), k.Revision.GetNumber())
		if k.Deleted {
			b.ended[k.Cluster] = b.configs[i].Revision()
		}
		b.log.Debug("revision", "cluster", k.Cluster, "number", k.Revision.GetNumber(),
			"author", k.Revision.GetAuthor(), "changes", len(k.Revision.GetChanges()))
	}
	for _, j := range b.unchanged {
		if !j.ValidateOnly {
			b.known(j.cluster).add(j.Author, j.RequestID, 0)
		}
	}
	b.publish(b.configs)
	if len(b.commits) > 0 {
		crash.Published.Pass()
	}
	return nil
}

// known returns the requests of a cluster.
func (b *batch) known(cluster string) *requests {
	if b.requests[cluster] == nil {
		b.requests[cluster] = newRequests(nil)
	}
	return b.requests[cluster]
}
