#!/bin/sh
# A request is one line of JSON, and so is its reply:
#   {"id":1,"fn":"greet","args":{"name":"Ann"}}    ->    {"id":1,"reply":"Hello, Ann!"}
# The arguments were checked against schema.json before. What goes to stderr is logged.
while IFS= read -r line; do
	id=${line#*:} id=${id%%,*}
	fn=${line#*\"fn\":\"} fn=${fn%%\"*}
	case $fn in
	greet)
		name=${line#*\"name\":\"} name=${name%\"*} # still escaped, as the reply needs it
		printf '{"id":%s,"reply":"Hello, %s!"}\n' "$id" "$name"
		;;
	*) printf '{"id":%s,"error":"there is no such function"}\n' "$id" ;;
	esac
done
