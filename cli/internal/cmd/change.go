package cmd

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/wait"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Answer metadata of a change.
const (
	revisionKey = "tandem-revision"
	epochKey    = "tandem-epoch"
	noteKey     = "tandem-note"
)

// change is the flags of every command that changes something.
type change struct {
	dryRun bool
	noWait bool
	note   string
	etag   string
}

func (c *change) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&c.dryRun, "dry-run", false, "check the change and make none")
	flags.BoolVar(&c.noWait, "no-wait", false, "return when the change is accepted, before it is in effect")
	flags.StringVarP(&c.note, "message", "m", "", "note that the history keeps")
}

// bindETag is for changes of what is there already.
func (c *change) bindETag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.etag, "etag", "", "fail if it is not this etag any more (-o json shows it)")
}

// stamp fills the fields that every change request has.
func (c *change) stamp(request proto.Message) {
	message := request.ProtoReflect()
	set := func(field string, value protoreflect.Value) {
		message.Set(message.Descriptor().Fields().ByName(protoreflect.Name(field)), value)
	}
	set("validate_only", protoreflect.ValueOfBool(c.dryRun))
	set("message", protoreflect.ValueOfString(c.note))
	// It lets the connection repeat the call without repeating the change.
	set("request_id", protoreflect.ValueOfString(rand.Text()))
}

// send makes one change and waits until it is in effect. what and verb tell it:
// "pool web_servers", "added". cluster is the full name of the one that changes.
func send[Request, Reply proto.Message](
	ctx context.Context, s *session, c *change, cluster, what, verb string, request Request,
	call func(context.Context, Request, ...grpc.CallOption) (Reply, error),
) error {
	c.stamp(request)
	var header metadata.MD
	reply, err := call(ctx, request, grpc.Header(&header))
	if err != nil {
		return err
	}
	if !s.isTable() {
		if err := s.print(reply, nil); err != nil {
			return err
		}
	}
	return s.finish(ctx, c, cluster, what+" "+verb, header)
}

// finish tells what was done and waits until it is in effect.
func (s *session) finish(ctx context.Context, c *change, cluster, done string, header metadata.MD) error {
	for _, note := range header.Get(noteKey) {
		s.say("note: %s", output.Clean(note))
	}
	if c.dryRun {
		s.say("dry run: nothing was changed; without --dry-run: %s", done)
		return nil
	}
	target, known := targetOf(cluster, header)
	if !known {
		s.say("%s", done)
		return nil
	}
	s.say("%s, revision %d", done, target.Revision)
	if c.noWait {
		return nil
	}
	return s.await(ctx, target)
}

func targetOf(cluster string, header metadata.MD) (wait.Target, bool) {
	first := func(key string) string {
		if values := header.Get(key); len(values) > 0 {
			return values[0]
		}
		return ""
	}
	revision, err := strconv.ParseUint(first(revisionKey), 10, 64)
	return wait.Target{Cluster: cluster, Epoch: first(epochKey), Revision: revision}, err == nil && revision > 0
}

// await shows progress until the revision is in effect.
func (s *session) await(ctx context.Context, target wait.Target) error {
	begin := time.Now()
	line := &progressLine{out: s.app}
	watch := func(ctx context.Context) (wait.Stream, error) {
		return s.Fleet.WatchStatus(ctx, &tandemv1.WatchStatusRequest{Name: target.Cluster})
	}
	progress, err := wait.Applied(ctx, watch, target, line.show)
	line.clear()
	switch {
	case len(progress.Applied) > 0:
		s.say("applied on %s after %s", strings.Join(progress.Applied, ", "), time.Since(begin).Round(time.Millisecond))
	case len(progress.Waiting) > 0:
	case err == nil && len(progress.Offline) == 0:
		s.say("no node has joined yet: the change waits for the first one")
	case err == nil:
		s.say("no node is connected: the change waits for them")
	}
	for _, w := range progress.Waiting {
		s.say("not yet on %s: %s", w.Node, output.Clean(w.Words))
	}
	if len(progress.Offline) > 0 {
		s.say("not connected: %s; applied there on return", strings.Join(progress.Offline, ", "))
	}
	return err
}

// progressLine redraws one line on a terminal, and is silent elsewhere.
type progressLine struct {
	out   *app
	drawn bool
}

func (l *progressLine) show(p wait.Progress) {
	if len(p.Pending) == 0 || !isTerminal(l.out.env.Stderr) {
		return
	}
	all := len(p.Applied) + len(p.Pending) + len(p.Failed)
	l.clear()
	fmt.Fprintf(l.out.env.Stderr, "applied on %d of %d nodes, waiting for %s ...",
		len(p.Applied), all, output.Clean(strings.Join(p.Pending, ", ")))
	l.drawn = true
}

func (l *progressLine) clear() {
	if l.drawn {
		fmt.Fprint(l.out.env.Stderr, "\r\x1b[K")
		l.drawn = false
	}
}

// what is how a resource is called in words: "pool web_servers".
func what(noun, full string) string { return noun + " " + name.Short(full) }
