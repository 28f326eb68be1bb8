package runtime

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// listed is what a reply says to one who has read nothing before.
func listed(reply string) ([]State, error) {
	var l Listing
	err := l.Read(strings.NewReader(reply))
	return l.States, err
}

// rereads reads replies one after the other, and checks that each says what it says to
// one who has not read the others, and whether it is told right that nothing but ages has
// changed.
func rereads(t *testing.T, replies ...string) {
	t.Helper()
	var l Listing
	var last []State
	for _, reply := range replies {
		want, wantErr := listed(reply)
		err := l.Read(strings.NewReader(reply))
		if fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Fatalf("%v, and %v without what came before, from\n%s", err, wantErr, strings.Join(replies, "\n"))
		}
		if err != nil {
			want = last
		}
		if diff := cmp.Diff(want, l.States, cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s\nfrom\n%s", diff, strings.Join(replies, "\n"))
		}
		if err == nil && l.Same && !slices.EqualFunc(last, want, sameButAge) {
			t.Fatalf("told to be the same, from\n%s", strings.Join(replies, "\n"))
		}
		last = slices.Clone(l.States)
	}
}

func sameButAge(a, b State) bool {
	a.Since = b.Since
	return a == b
}

// table is a reply as HAProxy makes it.
type table struct {
	columns []string
	rows    [][]string
}

func newTable(servers int) table {
	t := table{columns: strings.Fields(stateColumns)}
	for n := range servers {
		t.rows = append(t.rows, strings.Fields(fmt.Sprintf("4 pool %d web%d 10.0.%d.%d 2 0 1 1 %d 15 3 4 6 0 0 1 - 80 - 0 0 - - 0", n+1, n+1, n/250, n%250, n)))
	}
	return t
}

func (t table) String() string {
	text := "1\n# " + strings.Join(t.columns, " ") + "\n"
	for _, row := range t.rows {
		text += strings.Join(row, " ") + "\n"
	}
	return text + "\n"
}

// older has some time go by.
func (t table) older() {
	age := slices.Index(t.columns, ageColumn)
	for _, row := range t.rows {
		n, _ := strconv.Atoi(row[age])
		row[age] = strconv.Itoa(n + 2)
	}
}

// mutate changes something.
func (t *table) mutate(random *rand.Rand) {
	field := func() *string { return &t.rows[random.IntN(len(t.rows))][random.IntN(len(t.columns))] }
	kind := random.IntN(7)
	if len(t.rows) == 0 {
		kind = 0
	}
	switch kind {
	case 0: // a server comes
		row := newTable(1 + random.IntN(20)).rows
		t.rows = slices.Insert(t.rows, random.IntN(len(t.rows)+1), row[len(row)-1])
	case 1: // and goes
		n := random.IntN(len(t.rows))
		t.rows = slices.Delete(t.rows, n, n+1)
	case 2, 3: // a number or a name is another one
		*field() = strconv.Itoa(random.IntN(30))
	case 4: // or none
		*field() = []string{"-", "x", "1 2", "", "5\t9", "1\v"}[random.IntN(6)]
	case 5:
		random.Shuffle(len(t.rows), func(i, j int) { t.rows[i], t.rows[j] = t.rows[j], t.rows[i] })
	case 6: // another HAProxy has its columns in another order
		a, b := random.IntN(len(t.columns)), random.IntN(len(t.columns))
		t.columns[a], t.columns[b] = t.columns[b], t.columns[a]
		for _, row := range t.rows {
			if random.IntN(8) > 0 {
				row[a], row[b] = row[b], row[a]
			}
		}
	}
}

// Whatever comes after whatever else is read as if it were the first.
func TestListingIsReadAsIfItWereTheFirst(t *testing.T) {
	for seed := range uint64(1000) {
		random := rand.New(rand.NewPCG(seed, 0))
		table := newTable(random.IntN(6))
		replies := []string{table.String()}
		for range 6 {
			if random.IntN(2) == 0 {
				table.mutate(random)
			}
			table.older()
			replies = append(replies, table.String())
		}
		rereads(t, replies...)
	}
}

func FuzzListing(f *testing.F) {
	f.Add(states26, strings.Replace(states26, " 55 ", " 57 ", 1))
	f.Add(states26, strings.Replace(states26, " 55 ", " 5 7 ", 1))
	f.Add(states26, strings.Replace(states26, " 55 15 3 4 6 0 0 1 - 18081 - 0 0 - - 0", " 57", 1))
	f.Add(newTable(3).String(), newTable(2).String())
	f.Fuzz(func(t *testing.T, first, second string) { rereads(t, first, second, first, second) })
}

// A list that says the same again is told to, and costs next to nothing.
func TestTheSameAgain(t *testing.T) {
	table := newTable(1000)
	var l Listing
	for n := range 12 {
		table.older()
		if err := l.Read(strings.NewReader(table.String())); err != nil || l.Same != (n > 0) {
			t.Fatalf("reply %d: same %v, %v", n, l.Same, err)
		}
		if got, want := l.States[999].Since, time.Duration(999+2*(n+1))*time.Second; got != want {
			t.Errorf("reply %d: %v, want %v", n, got, want)
		}
	}
	reply := strings.NewReader("")
	text := table.String()
	if got := testing.AllocsPerRun(10, func() {
		reply.Reset(text)
		_ = l.Read(reply)
	}); got > 0 {
		t.Errorf("%v allocations", got)
	}
	for _, change := range [][2]string{
		{"srv_agent_addr srv_agent_port", "srv_agent_port srv_agent_addr"}, {"web1000 ", "web2000 "}, {"web7 10.0.0.6 2", "web7 10.0.0.6 0"},
	} {
		for _, reply := range []string{strings.Replace(text, change[0], change[1], 1), text} {
			if err := l.Read(strings.NewReader(reply)); err != nil || l.Same {
				t.Errorf("between %q: same %v, %v", change, l.Same, err)
			}
		}
	}
}

// A reply that breaks off or says nothing leaves what was there.
func TestListingAfterAnError(t *testing.T) {
	var l Listing
	if err := l.Read(strings.NewReader(states26)); err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(l.States)
	for _, broken := range []string{states26[:len(states26)-30], states26 + "x\n", "", "\n"} {
		if err := l.Read(strings.NewReader(broken)); err == nil || !slices.Equal(l.States, want) {
			t.Errorf("%q: %+v, %v", broken, l.States, err)
		}
	}
	if err := l.Read(iotest.ErrReader(errors.ErrUnsupported)); !errors.Is(err, errors.ErrUnsupported) || !slices.Equal(l.States, want) {
		t.Errorf("%+v, %v", l.States, err)
	}
	if err := l.Read(strings.NewReader(noTarget + " 1\n")); !errors.Is(err, ErrNoWorker) || !slices.Equal(l.States, want) {
		t.Errorf("%+v, %v", l.States, err)
	}
}

func BenchmarkListing(b *testing.B) {
	table := newTable(1000)
	var l Listing
	replies := [2]string{table.String()}
	table.older()
	replies[1] = table.String()
	reply := strings.NewReader("")
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		reply.Reset(replies[n%2])
		if err := l.Read(reply); err != nil {
			b.Fatal(err)
		}
	}
}
