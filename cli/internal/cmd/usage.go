package cmd

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tandem-lb/tandem/cli/internal/failure"
)

// group makes parent a command that only holds others: alone it is a mistake,
// and so is a word that it does not know.
func group(parent *cobra.Command, children ...*cobra.Command) *cobra.Command {
	parent.AddCommand(children...)
	parent.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	if parent.RunE == nil {
		parent.RunE = func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(cmd.ErrOrStderr())
			if err := cmd.Help(); err != nil {
				return err
			}
			return failure.Usagef("a command is missing after %q", cmd.CommandPath())
		}
	}
	return parent
}

func unknownCommand(cmd *cobra.Command, word string) error {
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	return failure.Usagef("unknown command %q for %q%s", word, cmd.CommandPath(), didYouMean(cmd.SuggestionsFor(word)))
}

// suggestFlag tells a mistyped flag's likely meaning.
func suggestFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return failure.Usage(err)
	}
	typed := unknown.GetSpecifiedName()
	// Cobra measures the distance between commands; lend it the flags as such.
	flags := &cobra.Command{SuggestionsMinimumDistance: 2}
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		flags.AddCommand(&cobra.Command{Use: "--" + flag.Name, Run: func(*cobra.Command, []string) {}})
	})
	return failure.Usagef("%w%s", err, didYouMean(flags.SuggestionsFor("--"+typed)))
}

func didYouMean(suggestions []string) string {
	if len(suggestions) == 0 {
		return ""
	}
	return fmt.Sprintf(": did you mean %s?", strings.Join(suggestions, " or "))
}

// arguments checks the number of arguments, which are named as in the usage
// line: "NAME ADDRESS:PORT", optional ones in brackets, the last perhaps with
// "..." for more.
func arguments(names string) cobra.PositionalArgs {
	want := strings.Fields(names)
	least, most := 0, len(want)
	for _, name := range want {
		if !strings.HasPrefix(name, "[") {
			least++
		}
		if strings.Contains(name, "...") {
			most = -1
		}
	}
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return failure.Usagef("%s is missing", want[len(args)])
		case most == 0 && len(args) > 0:
			return failure.Usagef("no arguments are taken here (got %q)", args[0])
		case most >= 0 && len(args) > most:
			return failure.Usagef("only %s is taken (got %q beside it)", names, args[most])
		}
		return nil
	}
}
