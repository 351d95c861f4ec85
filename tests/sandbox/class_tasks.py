"""Thirty tasks with classes of their own: the right program, changes that make it wrong, and the tests."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassTask:
    """A task.

    Args:
        code: The right program.
        changes: Pairs of a part of the code and what replaces it in a wrong program.
        tests: The tests.
    """

    code: str
    changes: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]

    @property
    def wrong(self) -> list[str]:
        """The wrong programs."""
        assert all(self.code.count(part) == 1 for part, _ in self.changes), self.changes
        return [self.code.replace(part, other) for part, other in self.changes]


TASKS = {
    "account": ClassTask(
        """\
class InsufficientFunds(Exception):
    def __init__(self, missing):
        super().__init__(f'{missing} short')
        self.missing = missing
class Account:
    def __init__(self, balance=0):
        self.balance = balance
    def deposit(self, amount):
        if amount <= 0:
            raise ValueError('amount')
        self.balance += amount
    def withdraw(self, amount):
        if amount > self.balance:
            raise InsufficientFunds(amount - self.balance)
        self.balance -= amount
""",
        (
            ("amount > self", "amount >= self"),
            ("amount - self.balance)", "amount)"),
            ("amount <= 0", "amount < 0"),
        ),
        (
            """\
a = Account(5)
a.deposit(5)
a.withdraw(10)
assert a.balance == 0
""",
            """\
try:
    Account(3).withdraw(5)
except InsufficientFunds as error:
    assert error.missing == 2
else:
    assert False
""",
            """\
try:
    Account().deposit(0)
    assert False
except ValueError:
    pass
""",
        ),
    ),
    "own exceptions": ClassTask(
        """\
class AppError(Exception):
    code = 1
class NotFound(AppError):
    code = 404
def find(key, table):
    try:
        return table[key]
    except KeyError as error:
        raise NotFound(key) from error
""",
        (
            ("code = 404", "code = 1"),
            ("raise NotFound(key) from error", "raise NotFound(key) from None"),
            ("NotFound(AppError)", "NotFound(Exception)"),
        ),
        (
            """\
import pytest
def test_it():
    with pytest.raises(NotFound) as info:
        find('a', {})
    assert info.value.args == ('a',) and info.value.code == 404
    assert isinstance(info.value.__cause__, KeyError) and isinstance(info.value, AppError)
    assert find('a', {'a': 1}) == 1
""",
        ),
    ),
    "enum": ClassTask(
        """\
from enum import Enum
class Light(Enum):
    RED = 'red'
    GREEN = 'green'
    AMBER = 'amber'
    def next(self):
        order = list(Light)
        return order[(order.index(self) + 1) % len(order)]
""",
        (
            ("+ 1) %", "+ 2) %"),
            ("'amber'", "'yellow'"),
        ),
        (
            "assert Light.RED.next() is Light.GREEN",
            "assert Light('amber') is Light.AMBER and Light.AMBER.next() is Light.RED",
            "assert [x.name for x in Light] == ['RED', 'GREEN', 'AMBER']",
        ),
    ),
    "flags": ClassTask(
        """\
from enum import Flag, auto
class Right(Flag):
    READ = auto()
    WRITE = auto()
    ALL = READ | WRITE
def can(rights, right):
    return right in rights
""",
        (
            ("READ | WRITE", "READ"),
            ("right in rights", "rights in right"),
        ),
        (
            "assert can(Right.ALL, Right.WRITE) and not can(Right.READ, Right.WRITE)",
            "assert Right.READ | Right.WRITE == Right.ALL and Right.ALL & Right.READ",
        ),
    ),
    "enum of numbers": ClassTask(
        """\
from enum import IntEnum
class Level(IntEnum):
    LOW = 1
    HIGH = 3
def highest(levels):
    return max(levels)
""",
        (
            ("max(levels)", "min(levels)"),
            ("HIGH = 3", "HIGH = 2"),
        ),
        (
            "assert highest([Level.LOW, Level.HIGH]) is Level.HIGH",
            "assert Level.HIGH == 3 and Level.HIGH > Level.LOW and highest([Level.LOW]).name == 'LOW'",
        ),
    ),
    "named tuple": ClassTask(
        """\
from collections import namedtuple
Point = namedtuple('Point', 'x y')
def mirrored(point):
    return Point(point.y, point.x)
""",
        (
            ("Point(point.y, point.x)", "Point(point.x, point.y)"),
            ("Point(point.y, point.x)", "(point.y, point.x)"),
        ),
        (
            """\
p = mirrored(Point(1, 2))
assert p == (2, 1) and p.x == 2 and p._asdict() == {'x': 2, 'y': 1}
""",
            "assert Point(3, 4)._replace(x=0).x == 0 and mirrored(Point(x=1, y=5)).y == 1",
        ),
    ),
    "typed named tuple": ClassTask(
        """\
from typing import NamedTuple
class Employee(NamedTuple):
    name: str
    pay: int = 100
    def raised(self, by):
        return self._replace(pay=self.pay + by)
""",
        (
            ("self.pay + by", "by"),
            ("= 100", "= 10"),
        ),
        (
            """\
e = Employee('a')
assert e.pay == 100 and e.raised(5).pay == 105 and e.pay == 100
""",
            """\
name, pay = Employee('b', 3)
assert (name, pay) == ('b', 3) and isinstance(Employee('b'), tuple)
""",
        ),
    ),
    "dataclass": ClassTask(
        """\
from dataclasses import dataclass, field
@dataclass(order=True)
class Item:
    price: float
    name: str = field(compare=False, default='')
    tags: list = field(default_factory=list, compare=False)
def cheapest(items):
    return min(items)
""",
        (
            ("min(items)", "max(items)"),
            ("@dataclass(order=True)", "@dataclass(order=True, eq=True, repr=False)"),
        ),
        (
            "assert cheapest([Item(3, 'a'), Item(2, 'b')]).name == 'b'",
            """\
assert Item(1, 'a') == Item(1, 'b') and repr(Item(1, 'a')) == "Item(price=1, name='a', tags=[])"
""",
            """\
a, b = Item(1), Item(1)
a.tags.append(1)
assert b.tags == []
""",
        ),
    ),
    "frozen dataclass": ClassTask(
        """\
from dataclasses import dataclass, replace
@dataclass(frozen=True)
class Money:
    amount: int
    unit: str = 'EUR'
    def __add__(self, other):
        if self.unit != other.unit:
            raise TypeError('units differ')
        return replace(self, amount=self.amount + other.amount)
""",
        (
            ("frozen=True", "frozen=False"),
            ("self.unit != other.unit", "False"),
            ("self.amount + other.amount", "other.amount"),
        ),
        (
            """\
import dataclasses
try:
    Money(1).amount = 2
except dataclasses.FrozenInstanceError:
    pass
else:
    assert False
""",
            "assert Money(1) + Money(2) == Money(3) and len({Money(1), Money(1)}) == 1",
            """\
try:
    Money(1) + Money(1, 'USD')
    assert False
except TypeError:
    pass
""",
        ),
    ),
    "iterator": ClassTask(
        """\
class Countdown:
    def __init__(self, start):
        self.left = start
    def __iter__(self):
        return self
    def __next__(self):
        if self.left == 0:
            raise StopIteration
        self.left -= 1
        return self.left + 1
""",
        (
            ("return self.left + 1", "return self.left"),
            ("== 0", "== 1"),
        ),
        (
            "assert list(Countdown(3)) == [3, 2, 1]",
            """\
c = Countdown(1)
assert next(c) == 1 and next(c, None) is None and iter(c) is c
""",
            "assert 2 in Countdown(3) and sum(Countdown(4)) == 10",
        ),
    ),
    "generator": ClassTask(
        """\
def averages():
    total = count = 0
    mean = None
    while True:
        value = yield mean
        total += value
        count += 1
        mean = total / count
""",
        (
            ("count += 1", "count = 1"),
            ("mean = total / count", "mean = total"),
        ),
        (
            """\
g = averages()
assert next(g) is None
assert [g.send(4), g.send(6)] == [4, 5]
g.close()
""",
            """\
import inspect
assert inspect.isgeneratorfunction(averages)
""",
        ),
    ),
    "generator that hands on": ClassTask(
        """\
def flat(nested):
    for each in nested:
        if isinstance(each, (list, tuple)):
            yield from flat(each)
        else:
            yield each
""",
        (
            ("yield from flat(each)", "yield from each"),
            ("(list, tuple)", "list"),
        ),
        (
            "assert list(flat([1, [2, (3, [4])]])) == [1, 2, 3, 4]",
            """\
import types
assert isinstance(flat([]), types.GeneratorType)
""",
        ),
    ),
    "context manager": ClassTask(
        """\
class Log:
    def __init__(self):
        self.lines = []
    def __enter__(self):
        self.lines.append('in')
        return self
    def __exit__(self, kind, error, trace):
        self.lines.append('out' if kind is None else kind.__name__)
        return kind is KeyError
""",
        (
            ("return kind is KeyError", "return True"),
            ("kind.__name__", "'error'"),
            ("        return self\n", ""),
        ),
        (
            """\
with Log() as log:
    pass
assert log.lines == ['in', 'out']
""",
            """\
log = Log()
with log:
    {}['a']
assert log.lines[-1] == 'KeyError'
""",
            """\
try:
    with Log():
        1 / 0
except ZeroDivisionError:
    pass
else:
    assert False
""",
        ),
    ),
    "context manager of a generator": ClassTask(
        """\
from contextlib import contextmanager
@contextmanager
def changed(mapping, key, value):
    before = mapping.get(key)
    mapping[key] = value
    try:
        yield mapping
    finally:
        mapping[key] = before
""",
        (
            ("finally:\n        mapping[key] = before", "finally:\n        pass"),
            ("mapping[key] = value", "pass"),
        ),
        (
            """\
d = {'a': 1}
with changed(d, 'a', 2) as inside:
    assert inside is d and d['a'] == 2
assert d['a'] == 1
""",
        ),
    ),
    "coroutine": ClassTask(
        """\
import asyncio
async def fetch(n):
    await asyncio.sleep(0)
    if n < 0:
        raise ValueError(n)
    return n * 2
async def fetch_all(numbers):
    return await asyncio.gather(*map(fetch, numbers))
""",
        (
            ("n * 2", "n"),
            ("n < 0", "n < -9"),
            ("await asyncio.gather(*map(fetch, numbers))", "[fetch(n) for n in numbers]"),
        ),
        (
            "import asyncio",
            "assert asyncio.run(fetch_all([1, 2])) == [2, 4]",
            """\
async def main():
    try:
        await fetch(-1)
    except ValueError:
        return True
assert asyncio.run(main())
""",
        ),
    ),
    "asynchronous iterator": ClassTask(
        """\
class Ticker:
    def __init__(self, stop):
        self.now, self.stop = 0, stop
    def __aiter__(self):
        return self
    async def __anext__(self):
        if self.now == self.stop:
            raise StopAsyncIteration
        self.now += 1
        return self.now
    async def __aenter__(self):
        return self
    async def __aexit__(self, *error):
        self.now = 0
""",
        (
            ("self.now += 1\n        return self.now", "self.now += 1\n        return self.now - 1"),
            ("*error):\n        self.now = 0", "*error):\n        pass"),
        ),
        (
            """\
import asyncio
async def main():
    async with Ticker(3) as ticker:
        seen = [n async for n in ticker]
    return seen, ticker.now
assert asyncio.run(main()) == ([1, 2, 3], 0)
""",
        ),
    ),
    "graph": ClassTask(
        """\
from collections import deque
class Graph:
    def __init__(self):
        self.edges = {}
    def connect(self, a, b):
        self.edges.setdefault(a, set()).add(b)
        self.edges.setdefault(b, set()).add(a)
        return self
    def distance(self, start, end):
        seen, left = {start}, deque([(start, 0)])
        while left:
            node, steps = left.popleft()
            if node == end:
                return steps
            for other in self.edges.get(node, ()):
                if other not in seen:
                    seen.add(other)
                    left.append((other, steps + 1))
        return None
""",
        (
            ("steps + 1", "steps + 2"),
            ("        self.edges.setdefault(b, set()).add(a)\n", ""),
            ("return None", "return -1"),
            ("left.popleft()", "left.pop()"),
        ),
        (
            """\
g = Graph().connect(1, 2).connect(2, 3).connect(3, 4).connect(1, 5).connect(5, 6).connect(6, 7).connect(7, 4)
assert g.distance(1, 4) == 3 and g.distance(4, 1) == 3
""",
            "assert Graph().connect('a', 'b').distance('a', 'z') is None",
        ),
    ),
    "linked list": ClassTask(
        """\
class Node:
    def __init__(self, value, next=None):
        self.value, self.next = value, next
def turned(head):
    last = None
    while head:
        head.next, last, head = last, head, head.next
    return last
""",
        (
            ("return last", "return head"),
            ("head.next, last, head = last, head, head.next", "last, head = Node(head.value), head.next"),
        ),
        (
            """\
a = Node(1, Node(2, Node(3)))
end = a.next.next
b = turned(a)
assert b is end and b.next.next is a and a.next is None
""",
            "assert turned(None) is None",
        ),
    ),
    "tree": ClassTask(
        """\
class Tree:
    def __init__(self, value):
        self.value, self.left, self.right = value, None, None
    def insert(self, value):
        side = 'left' if value < self.value else 'right'
        child = getattr(self, side)
        if child is None:
            setattr(self, side, Tree(value))
        else:
            child.insert(value)
    def __iter__(self):
        if self.left:
            yield from self.left
        yield self.value
        if self.right:
            yield from self.right
    def __contains__(self, value):
        return any(each == value for each in self)
""",
        (
            ("value < self.value", "value > self.value"),
            ("child.insert(value)", "pass"),
        ),
        (
            """\
t = Tree(5)
for n in (3, 8, 1, 4):
    t.insert(n)
assert list(t) == [1, 3, 4, 5, 8] and 4 in t and 9 not in t and t.left.left.value == 1
""",
        ),
    ),
    "vector": ClassTask(
        """\
class Vector:
    def __init__(self, *parts):
        self.parts = parts
    def __add__(self, other):
        return Vector(*(a + b for a, b in zip(self.parts, other.parts)))
    def __mul__(self, by):
        return Vector(*(a * by for a in self.parts))
    __rmul__ = __mul__
    def __eq__(self, other):
        return isinstance(other, Vector) and self.parts == other.parts
    def __hash__(self):
        return hash(self.parts)
    def __len__(self):
        return len(self.parts)
    def __getitem__(self, place):
        return self.parts[place]
    def __repr__(self):
        return f'Vector{self.parts}'
""",
        (
            ("a + b for", "a - b for"),
            ("    __rmul__ = __mul__\n", ""),
            ("hash(self.parts)", "id(self)"),
            ("return f'Vector{self.parts}'", "return 'Vector'"),
        ),
        (
            """\
v = Vector(1, 2)
assert v + v == v * 2 == 2 * v == Vector(2, 4) and v != (1, 2)
""",
            """\
assert len(Vector(1, 2, 3)) == 3 and Vector(1, 2)[1] == 2 and list(Vector(1, 2)) == [1, 2] and 2 in Vector(1, 2)
""",
            "assert repr(Vector(1, 2)) == 'Vector(1, 2)' and {Vector(1, 2): 1}[Vector(1, 2)] == 1",
        ),
    ),
    "money beside numbers": ClassTask(
        """\
from functools import total_ordering
@total_ordering
class Money:
    def __init__(self, cents):
        self.cents = cents
    def __eq__(self, other):
        return self.cents == getattr(other, 'cents', other)
    def __lt__(self, other):
        return self.cents < getattr(other, 'cents', other)
    def __float__(self):
        return self.cents / 100
    def __bool__(self):
        return self.cents != 0
""",
        (
            ("@total_ordering\n", ""),
            ("self.cents / 100", "self.cents / 10"),
            ("return self.cents != 0", "return True"),
        ),
        (
            "assert Money(5) == 5 and Money(5) > 3 and Money(2) <= Money(2)",
            "assert float(Money(150)) == 1.5 and not Money(0) and sorted([Money(2), Money(1)])[0] == 1",
        ),
    ),
    "inheritance": ClassTask(
        """\
from abc import ABC, abstractmethod
class Shape(ABC):
    @abstractmethod
    def area(self): ...
    def doubled(self):
        return 2 * self.area()
class Square(Shape):
    def __init__(self, side):
        self.side = side
    def area(self):
        return self.side ** 2
""",
        (
            ("    @abstractmethod\n", ""),
            ("Square(Shape)", "Square"),
            ("self.side ** 2", "self.side * 4"),
        ),
        (
            """\
try:
    Shape()
    assert False
except TypeError:
    pass
""",
            "assert issubclass(Square, Shape) and Square(3).doubled() == 18",
            """\
class Circle(Shape):
    def area(self):
        return 3
assert Circle().doubled() == 6 and isinstance(Circle(), Shape)
""",
        ),
    ),
    "properties": ClassTask(
        """\
class Celsius:
    made = 0
    def __init__(self, degrees):
        self.degrees = degrees
        type(self).made += 1
    @property
    def degrees(self):
        return self._degrees
    @degrees.setter
    def degrees(self, value):
        if value < -273.15:
            raise ValueError('too cold')
        self._degrees = value
    @classmethod
    def of_fahrenheit(cls, degrees):
        return cls((degrees - 32) / 1.8)
    @staticmethod
    def unit():
        return 'C'
""",
        (
            ("/ 1.8", "* 1.8"),
            ("+= 1", "+= 2"),
            ("value < -273.15", "False"),
        ),
        (
            """\
c = Celsius.of_fahrenheit(212)
assert abs(c.degrees - 100) < 1e-9 and Celsius.unit() == 'C' and Celsius.made == 1
""",
            """\
import pytest
with pytest.raises(ValueError, match='cold'):
    Celsius(0).degrees = -300
""",
        ),
    ),
    "descriptor": ClassTask(
        """\
class Positive:
    def __set_name__(self, owner, name):
        self.name = '_' + name
    def __get__(self, instance, owner=None):
        return self if instance is None else getattr(instance, self.name)
    def __set__(self, instance, value):
        if value <= 0:
            raise ValueError(self.name)
        setattr(instance, self.name, value)
class Order:
    amount = Positive()
    def __init__(self, amount):
        self.amount = amount
""",
        (
            ("value <= 0", "value < 0"),
            ("return self if instance is None else getattr", "return getattr"),
        ),
        (
            "assert Order(3).amount == 3 and isinstance(Order.amount, Positive)",
            """\
import unittest
class T(unittest.TestCase):
    def test_it(self):
        with self.assertRaises(ValueError):
            Order(0)
""",
        ),
    ),
    "decorator": ClassTask(
        """\
import functools
def counted(function):
    @functools.wraps(function)
    def call(*args, **options):
        call.calls += 1
        return function(*args, **options)
    call.calls = 0
    return call
""",
        (
            ("    @functools.wraps(function)\n", ""),
            ("call.calls += 1", "call.calls = 1"),
        ),
        (
            """\
@counted
def add(a, b=1):
    'Adds.'
    return a + b
assert add(1) == 2 and add(1, b=3) == 4 and add.calls == 2 and add.__name__ == 'add' and add.__doc__ == 'Adds.'
""",
        ),
    ),
    "metaclass": ClassTask(
        """\
class Registry(type):
    known = {}
    def __new__(meta, name, bases, space):
        made = super().__new__(meta, name, bases, space)
        if bases:
            meta.known[name.lower()] = made
        return made
class Plugin(metaclass=Registry):
    pass
""",
        (
            ("name.lower()", "name"),
            ("if bases:", "if True:"),
        ),
        (
            """\
class Csv(Plugin):
    pass
assert Registry.known == {'csv': Csv} and type(Csv) is Registry
""",
        ),
    ),
    "printing": ClassTask(
        """\
import sys
def greet(times=1):
    for _ in range(times):
        print('hello', end='!\\n')
def complain():
    print('bad', file=sys.stderr)
def ask():
    return int(input('n? ')) + 1
""",
        (
            ("end='!\\n'", "end='\\n'"),
            ("file=sys.stderr", "file=sys.stdout"),
            ("+ 1", "+ 2"),
        ),
        (
            """\
import io, contextlib
with contextlib.redirect_stdout(io.StringIO()) as out:
    greet(2)
assert out.getvalue() == 'hello!\\nhello!\\n'
""",
            """\
with contextlib.redirect_stderr(io.StringIO()) as out:
    complain()
assert out.getvalue() == 'bad\\n'
""",
            """\
from unittest.mock import patch
with patch('builtins.input', return_value='4') as asked:
    assert ask() == 5
asked.assert_called_once_with('n? ')
""",
        ),
    ),
    "input of lines": ClassTask(
        """\
import sys
def main():
    count = int(sys.stdin.readline())
    print(sum(int(sys.stdin.readline()) for _ in range(count)))
""",
        (
            ("sum(", "max("),
            ("range(count)", "range(count - 1)"),
        ),
        (
            """\
import sys, io
sys.stdin, sys.stdout, before = io.StringIO('2\\n3\\n4\\n'), io.StringIO(), sys.stdout
try:
    main()
    said = sys.stdout.getvalue()
finally:
    sys.stdout = before
assert said == '7\\n'
""",
        ),
    ),
    "cache": ClassTask(
        """\
from collections import OrderedDict
class LRU:
    def __init__(self, size):
        self.size, self.kept = size, OrderedDict()
    def get(self, key):
        if key not in self.kept:
            return -1
        self.kept.move_to_end(key)
        return self.kept[key]
    def put(self, key, value):
        self.kept[key] = value
        self.kept.move_to_end(key)
        if len(self.kept) > self.size:
            self.kept.popitem(last=False)
""",
        (
            ("last=False", "last=True"),
            ("            return -1\n        self.kept.move_to_end(key)\n", "            return -1\n"),
        ),
        (
            """\
c = LRU(2)
c.put(1, 'a')
c.put(2, 'b')
assert c.get(1) == 'a'
c.put(3, 'c')
assert c.get(2) == -1 and c.get(1) == 'a' and c.get(3) == 'c'
""",
        ),
    ),
    "files": ClassTask(
        """\
from pathlib import Path
class Note:
    def __init__(self, path):
        self.path = Path(path)
    def save(self, text):
        self.path.write_text(text)
        return self.path
    def read(self):
        return self.path.read_text().splitlines()
""",
        (
            (".splitlines()", ".split()"),
            ("return self.path\n", "return str(self.path)\n"),
        ),
        (
            """\
from pathlib import Path
assert Note('a.txt').save('x y\\nz') == Path('a.txt')
assert Note('a.txt').read() == ['x y', 'z']
""",
        ),
    ),
    "aliases": ClassTask(
        """\
def zero(rows):
    for row in rows:
        row[:] = [0] * len(row)
    return rows
""",
        (
            ("row[:] = [0] * len(row)", "row = [0] * len(row)"),
            ("return rows", "return list(rows)"),
        ),
        (
            """\
row = [1, 2]
rows = [row, row]
assert zero(rows) is rows and row == [0, 0] and rows[0] is rows[1]
""",
        ),
    ),
    "copies": ClassTask(
        """\
import copy, pickle
class Box:
    def __init__(self, items):
        self.items = items
    def __eq__(self, other):
        return type(other) is Box and self.items == other.items
    def __deepcopy__(self, memo):
        return Box(copy.deepcopy(self.items, memo))
    def __copy__(self):
        return Box(self.items)
""",
        (
            ("Box(copy.deepcopy(self.items, memo))", "Box(self.items)"),
            ("        return Box(self.items)\n", "        return self\n"),
        ),
        (
            """\
import copy, pickle
b = Box([[1]])
c, d = copy.copy(b), copy.deepcopy(b)
assert c is not b and c.items is b.items and d == b and d.items[0] is not b.items[0]
""",
            "assert pickle.loads(pickle.dumps(Box([1]))) == Box([1])",
        ),
    ),
}
