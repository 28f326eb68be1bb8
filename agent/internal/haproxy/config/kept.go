package config

import "fmt"

// Kept are parts of a hand-written file that stay beside what is rendered, line
// by line as written. They come from a file that root owns on this machine and
// from nowhere else: the API has no way to say any of it.
type Kept struct {
	// Global are lines of the global section.
	Global []string
	// Defaults are lines of a defaults section that comes first. What is
	// rendered says everything itself, so that they add to it and change
	// nothing of it.
	Defaults []string
	// Sections come last, in order.
	Sections []KeptSection
}

// KeptSection is a section that is kept whole.
type KeptSection struct {
	// Kind and Name of the section; a defaults section may have no name.
	Kind, Name string
	// Lines of the section, the one with its keyword first.
	Lines []string
}

// Has tells whether a proxy is kept under that name.
func (k *Kept) Has(backend string) bool {
	if k == nil {
		return false
	}
	for i := range k.Sections {
		if s := &k.Sections[i]; s.isProxy() && s.Name == backend {
			return true
		}
	}
	return false
}

func (s *KeptSection) isProxy() bool {
	return s.Kind == "frontend" || s.Kind == "backend" || s.Kind == "listen"
}

// renderKeptFirst writes what comes before the proxies.
func renderKeptFirst(w *writer, k *Kept) {
	if len(k.Global) > 0 {
		w.section("", "global", "")
		w.keep(k.Global)
	}
	if len(k.Defaults) > 0 {
		w.section("", "defaults", "")
		w.keep(k.Defaults)
	}
}

// renderKept writes the sections. One that is rendered too, since the model has
// it now, gives way.
func renderKept(w *writer, k *Kept, frontends map[string]bool) {
	for i := range k.Sections {
		s := &k.Sections[i]
		accepts, serves := s.Kind != "backend", s.Kind != "frontend"
		if s.isProxy() && (accepts && frontends[s.Name] || serves && w.backends[s.Name]) {
			continue
		}
		w.text = append(w.text, '\n')
		w.keep(s.Lines)
	}
}

// keep writes lines as they are.
func (w *writer) keep(lines []string) {
	for n, line := range lines {
		for i := range len(line) {
			if line[i] == '\n' || line[i] == 0 {
				w.fail("kept lines", "hold a line break or NUL in line %d", n+1)
			}
		}
		w.put(fmt.Sprintf("kept line %q", line), line)
	}
}
