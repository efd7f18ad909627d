#!/bin/sh
# The program of a cell in any language: it reads a request a line, and answers with a line.
#   {"id":1,"fn":"greet","args":{"name":"Ann"}}    ->    {"id":1,"reply":"Hello, Ann!"}
# The arguments were checked against schema.json before. What goes to stderr is logged.
while IFS= read -r line; do
	id=${line#*:} id=${id%%,*}
	case $line in
	*'"fn":"greet","args":{"name":"'*)
		name=${line#*'"args":{"name":"'} name=${name%'"}}'} # still escaped, as the reply needs it
		printf '{"id":%s,"reply":"Hello, %s!"}\n' "$id" "$name"
		;;
	*) printf '{"id":%s,"error":"greet wants a name"}\n' "$id" ;;
	esac
done
