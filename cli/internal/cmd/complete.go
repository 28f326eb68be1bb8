package cmd

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/cli/internal/fields"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// completionTime bounds how long a person waits after the Tab key.
const completionTime = 2 * time.Second

// lister fetches all resources of a kind, as one message of the API.
type lister func(ctx context.Context, s *session) (proto.Message, error)

// complete registers what completes a flag. That it cannot fail shows in tests:
// the flag exists.
func complete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}

// completeFields registers the fixed values of fields.
func completeFields(cmd *cobra.Command, all []fields.Field) {
	for _, field := range all {
		if len(field.Values) > 0 {
			complete(cmd, field.Flag, fixed(field.Values...))
		}
	}
}

func fixed(values ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
}

// names completes with what is there now. It is silent when the controller
// cannot be asked.
func (a *app) names(list lister) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.ask(cmd.Context(), list), cobra.ShellCompDirectiveNoFileComp
	}
}

// firstName is names for the first argument only.
func (a *app) firstName(list lister) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.names(list)(cmd, args, typed)
	}
}

// backendNames completes POOL/ first and then the pool's backends.
func (a *app) backendNames(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	pool, _, chosen := strings.Cut(typed, "/")
	if chosen {
		return a.ask(cmd.Context(), func(ctx context.Context, s *session) (proto.Message, error) {
			return backendsOf(ctx, s, s.cluster+"/pools/"+pool)
		}), cobra.ShellCompDirectiveNoFileComp
	}
	return a.poolPrefix(cmd, args, typed)
}

// poolPrefix completes POOL/ where a new backend's name goes on.
func (a *app) poolPrefix(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || strings.Contains(typed, "/") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	pools := a.ask(cmd.Context(), listPools)
	for i := range pools {
		pools[i] += "/"
	}
	return pools, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func (a *app) ask(ctx context.Context, list lister) []string {
	s, err := a.open()
	if err != nil {
		return nil
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	message, err := list(ctx, s)
	if err != nil {
		return nil
	}
	var short []string
	for _, full := range output.Names(message) {
		short = append(short, output.Clean(name.Short(full)))
	}
	return short
}

func listClusters(ctx context.Context, s *session) (proto.Message, error) {
	return clustersOf(ctx, s)
}

func listPools(ctx context.Context, s *session) (proto.Message, error) {
	return poolsOf(ctx, s)
}

func listVips(ctx context.Context, s *session) (proto.Message, error) {
	return vipsOf(ctx, s)
}

func listListeners(ctx context.Context, s *session) (proto.Message, error) {
	return listenersOf(ctx, s)
}

func listNodes(ctx context.Context, s *session) (proto.Message, error) {
	return s.Fleet.ListNodes(ctx, &tandemv1.ListNodesRequest{Parent: s.cluster})
}
