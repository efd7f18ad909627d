package gen

import "github.com/celldnet/celld/cellproto"

// Client is a client as it is written to disk.
type Client struct {
	Dir  string // below the output directory; "": there itself
	File string
	Code []byte
}

// Language is one that clients are written in.
type Language struct {
	Name     string // on the command line
	Generate func(s *cellproto.Schema) (Client, error)
}

// Languages are all there are.
var Languages = []Language{
	{"go", func(s *cellproto.Schema) (Client, error) {
		pkg, code, err := Go(s)
		return Client{Dir: pkg, File: pkg + ".go", Code: code}, err
	}},
	{"python", func(s *cellproto.Schema) (Client, error) {
		code, err := Python(s)
		return Client{File: module(s.Cell) + ".py", Code: code}, err
	}},
	{"typescript", func(s *cellproto.Schema) (Client, error) {
		code, err := TypeScript(s)
		return Client{File: s.Cell + ".ts", Code: code}, err
	}},
}

// module makes the name of a Python module of that of a cell: not one of the standard library, which a module of that name
// beside the program would hide from all that it uses.
func module(cell string) string {
	name := snake(cell, names{})
	if pythonModules()[name] > 0 {
		name += "_cell"
	}
	return name
}

// pythonModules are those of Python 3.8 to 3.14 (sys.stdlib_module_names).
var pythonModules = later(`abc aifc annotationlib antigravity argparse array ast asynchat asyncio asyncore atexit audioop base64 bdb binascii
	bisect builtins bz2 calendar cgi cgitb chunk cmath cmd code codecs codeop collections colorsys compileall compression
	concurrent configparser contextlib contextvars copy copyreg crypt csv ctypes curses dataclasses datetime dbm decimal
	difflib dis distutils doctest email encodings ensurepip enum errno faulthandler fcntl filecmp fileinput fnmatch
	fractions ftplib functools gc genericpath getopt getpass gettext glob graphlib grp gzip hashlib heapq hmac html http
	idlelib imaplib imghdr imp importlib inspect io ipaddress itertools json keyword lib2to3 linecache locale logging lzma
	mailbox mailcap marshal math mimetypes mmap modulefinder msilib msvcrt multiprocessing netrc nis nntplib nt ntpath
	nturl2path numbers opcode operator optparse os ossaudiodev pathlib pdb pickle pickletools pipes pkgutil platform
	plistlib poplib posix posixpath pprint profile pstats pty pwd py_compile pyclbr pydoc pydoc_data pyexpat queue quopri
	random re readline reprlib resource rlcompleter runpy sched secrets select selectors shelve shlex shutil signal site
	smtpd smtplib sndhdr socket socketserver spwd sqlite3 sre_compile sre_constants sre_parse ssl stat statistics string
	stringprep struct subprocess sunau symtable sys sysconfig syslog tabnanny tarfile telnetlib tempfile termios textwrap
	this threading time timeit tkinter token tokenize tomllib trace traceback tracemalloc tty turtle turtledemo types typing
	unicodedata unittest urllib uu uuid venv warnings wave weakref webbrowser winreg winsound wsgiref xdrlib xml xmlrpc
	zipapp zipfile zipimport zlib zoneinfo`)
