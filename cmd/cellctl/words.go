package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// protectNumbers lets negative numbers be arguments of a function: in "use calculator add -3 4" the
// flag parser would take -3 for a flag. If there are any, the flags of a use are put in front and
// the rest behind "--".
func protectNumbers(root *cobra.Command, words []string) []string {
	at := slices.IndexFunc(words, func(w string) bool { return !strings.HasPrefix(w, "-") })
	if at < 0 || words[at] != "use" || !slices.ContainsFunc(words[at:], isNegative) {
		return words
	}
	use, _, err := root.Find([]string{"use"})
	if err != nil {
		return words
	}
	flags, rest := []string{}, []string{}
	for i := at + 1; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "--":
			rest = append(rest, words[i+1:]...)
			i = len(words)
		case !strings.HasPrefix(w, "-") || w == "-" || isNegative(w):
			rest = append(rest, w)
		default:
			flags = append(flags, w)
			if takesWord(root, use, w) && i+1 < len(words) {
				i++
				flags = append(flags, words[i])
			}
		}
	}
	protected := slices.Concat(words[:at+1], flags, []string{"--"}, rest)
	return protected
}

func isNegative(w string) bool {
	return len(w) > 1 && w[0] == '-' && (w[1] >= '0' && w[1] <= '9' || w[1] == '.')
}

// takesWord reports that the value of flag w is the word after it.
func takesWord(root, use *cobra.Command, w string) bool {
	if strings.Contains(w, "=") {
		return false
	}
	for _, set := range []*pflag.FlagSet{use.Flags(), root.PersistentFlags()} {
		var f *pflag.Flag
		if name, long := strings.CutPrefix(w, "--"); long {
			f = set.Lookup(name)
		} else if len(w) == 2 {
			f = set.ShorthandLookup(w[1:])
		}
		if f != nil {
			return f.NoOptDefVal == ""
		}
	}
	return false
}
